// preprocessor_config.json for tiling.h. Field meanings: transformers 5.17, image_processing_llama4.py; which file
// wins: image_processing_base.py (a processor_config.json with an "image_processor" member goes first).
#include <cmath>

#include "base/error.h"
#include "base/file.h"
#include "vision/tiling.h"

namespace l4 {

namespace {

constexpr uint64_t kMaxFileBytes = 1 << 20;

// The member as a kind of value, or nothing where it is absent or null.
const Json* member(const Json& config, const char* key) {
  const Json* value = config.find(key);
  return value && !value->is_null() ? value : nullptr;
}

std::string brief(const Json& value) {
  const std::string text = dump_json(value);
  return text.size() > 80 ? text.substr(0, utf8_whole_prefix(text.substr(0, 80))) + "..." : text;
}

[[noreturn]] void refuse(const std::string& source, const char* field, const Json& found, const std::string& expected) {
  fail(ErrorKind::unsupported, source, ": ", field, " is ", brief(found), "; only ", expected, " is supported");
}

void expect_true(const Json& config, const std::string& source, const char* field) {
  const Json* value = member(config, field);
  if (value && *value != Json(true)) refuse(source, field, *value, "true");
}

bool is_near(const Json& value, double wanted) {
  return value.is_number() && std::abs(value.as_number() - wanted) < 1e-9;
}

void expect_halves(const Json& config, const std::string& source, const char* field) {
  const Json* value = member(config, field);
  if (!value) return;
  bool fits = value->is_array() && value->as_array().size() == 3;
  for (size_t i = 0; fits && i < 3; ++i) fits = is_near(value->as_array()[i], 0.5);
  if (!fits && !is_near(*value, 0.5)) refuse(source, field, *value, "[0.5, 0.5, 0.5]");
}

}  // namespace

TilingConfig parse_tiling_config(const Json& config, const std::string& source, int64_t image_size) {
  if (!config.is_object()) fail_input(source, ": expected an object, found ", config.kind_name());
  for (const char* field : {"do_resize", "do_rescale", "do_normalize", "do_convert_rgb"})
    expect_true(config, source, field);
  expect_halves(config, source, "image_mean");
  expect_halves(config, source, "image_std");
  if (const Json* value = member(config, "resample"); value && *value != Json(2))
    refuse(source, "resample", *value, "2 (bilinear)");
  if (const Json* value = member(config, "rescale_factor"); value && !is_near(*value, 1.0 / 255)) {
    refuse(source, "rescale_factor", *value, "1/255");
  }
  for (const char* field : {"do_center_crop", "do_pad"}) {
    if (const Json* value = member(config, field); value && *value != Json(false))
      refuse(source, field, *value, "false");
  }
  if (const Json* value = member(config, "image_processor_type")) {
    const std::string name = value->is_string() ? value->as_string() : "";
    if (name.rfind("Llama4ImageProcessor", 0) != 0)
      refuse(source, "image_processor_type", *value, "Llama4ImageProcessor");
  }

  TilingConfig tiling;
  tiling.tile = image_size;
  if (const Json* size = member(config, "size")) {
    const Json* height = size->find("height");
    const Json* width = size->find("width");
    if (!height || !width || *height != Json(image_size) || *width != Json(image_size)) {
      refuse(source, "size", *size, cat("the vision tower's image_size, ", image_size, "x", image_size, ","));
    }
  } else if (image_size != 336) {
    fail_input(source, ": size is absent, which means 336, but the vision tower's image_size is ", image_size);
  }
  if (const Json* value = member(config, "max_patches")) {
    if (!value->is_integer() || value->as_integer() < 1 || value->as_integer() > 256) {
      fail_input(source, ": max_patches is ", brief(*value), ", expected 1 to 256");
    }
    tiling.max_tiles = value->as_integer();
  }
  if (const Json* value = member(config, "resize_to_max_canvas")) {
    if (!value->is_bool()) fail_input(source, ": resize_to_max_canvas is ", brief(*value), ", expected true or false");
    tiling.resize_to_max_canvas = value->as_bool();
  }
  return tiling;
}

TilingConfig load_tiling_config(const std::filesystem::path& dir, int64_t image_size) {
  const auto read = [](const fs::path& path) { return parse_json(read_file(path, kMaxFileBytes), path.string()); };
  const fs::path processor = dir / "processor_config.json", preprocessor = dir / "preprocessor_config.json";
  if (fs::exists(processor)) {
    const Json config = read(processor);
    if (const Json* nested = member(config, "image_processor")) {
      return parse_tiling_config(*nested, processor.string() + ": image_processor", image_size);
    }
  }
  if (fs::exists(preprocessor)) return parse_tiling_config(read(preprocessor), preprocessor.string(), image_size);
  TilingConfig defaults;
  defaults.tile = image_size;
  return defaults;
}

}  // namespace l4
