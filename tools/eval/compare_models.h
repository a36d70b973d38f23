// Two models' logits over the same tokens: of two files of `l4-eval logits`, or of two checkpoints, one after the other
// (both at once may not fit). Neither's logits are in memory: those of the first model go to a file.
#pragma once

#include "tools/common/logit_comparison.h"
#include "tools/common/model_flags.h"
#include "tools/common/text_sequences.h"
#include "tools/eval/document.h"

namespace l4::eval {

// Error{io | input} naming the file: not the same shape, nothing in them, a row that is not finite.
tools::LogitComparison compare_logit_files(const fs::path& first, const fs::path& second);

struct ModelComparison {
  LoadOptions first, second;
  tools::Sequences sequences;  // each computed on its own, in both
  fs::path scratch;            // the folder of the file, rows x vocabulary x 4 bytes; it is gone afterwards
};
tools::LogitComparison compare_models(const ModelComparison& what);

// The vocabularies' sizes, which have to be the same. Error{input}.
void check_same_vocabulary(const LoadOptions& first, const LoadOptions& second);

Document to_document(const tools::LogitComparison& found, const std::string& first, const std::string& second);

}  // namespace l4::eval
