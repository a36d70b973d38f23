// The folder that a conversion fills. Until the last step it has no config.json and no index, so that nothing takes it
// for a model; what a run that was ended has finished is in it under its final name, and the next run goes on from
// there.
//
//   DIR/.l4-convert/plan.json        what is being done, from which files: another plan does not go on from here
//   DIR/.l4-convert/lock             held while a conversion runs
//   DIR/.l4-convert/model-...json    what a file lost by quantisation, written before the file gets its name
//   DIR/.l4-convert/calibration/     layers' codes that text decided (calibrate.h)
#pragma once

#include <vector>

#include "formats/json.h"
#include "quant/quantize.h"
#include "tools/common/conversion_plan.h"

namespace l4::convert {

// A source's files with their sizes and times, to notice that somebody changed one.
class SourceStamp {
 public:
  explicit SourceStamp(const HfCheckpoint& source);
  void check() const;  // Error{input} naming the file that is another than before
  Json json() const;

 private:
  struct File {
    fs::path path;
    uint64_t bytes;
    int64_t time_ns;
  };
  std::vector<File> files_;
};

Json error_json(const QuantError& error);
QuantError parse_error(const Json& json, const std::string& source);  // Error{input}

struct NamedValue {
  std::string name;
  float value;
};

class Target {
 public:
  // Looks whether `dir` may be written and is none of the source's; writes nothing. Error{usage}.
  Target(fs::path dir, const fs::path& source, bool overwrite);
  ~Target();
  Target(const Target&) = delete;
  Target& operator=(const Target&) = delete;

  // Makes the folder and takes it over. Error{usage} where it holds something finished or another plan's work and is
  // not to be overwritten, Error{io} where somebody else is writing there, or the disk is too small for what is
  // missing.
  void begin(const Plan& plan, const Json& identity);

  fs::path path(const std::string& name) const { return dir_ / name; }
  fs::path calibration() const { return notes() / "calibration"; }
  // Of a file that is there already, an entry an item.
  const std::vector<QuantError>* finished(size_t shard) const;
  void save_errors(const OutputShard& shard, const std::vector<QuantError>& errors) const;

  // After the last shard: `extra` in a file of their own (F32 [1]), everything of the source's folder that is no
  // weights, the index, the config; then the notes that begin() made go.
  void finish(const Plan& plan, const std::vector<NamedValue>& extra) const;
  void sync() const;  // names of files that were renamed are on the disk

 private:
  fs::path notes() const { return dir_ / ".l4-convert"; }
  void refuse_what_is_there(const Json& identity) const;
  void clear() const;
  void find_finished(const Plan& plan);

  fs::path dir_, source_;
  bool overwrite_;
  int lock_ = -1;
  std::vector<std::vector<QuantError>> finished_;  // empty: not there
};

}  // namespace l4::convert
