// Scores that others have published, to be seen beside our own where they were measured in the same way: by the same
// recipe, with as many shots, on a model of the same name.
#pragma once

#include <string>
#include <vector>

#include "tools/eval/summary.h"

namespace l4::eval {

struct Published {
  const char *task, *recipe;
  int64_t shots;
  const char* metric;  // ours
  const char* model;   // a word in the model's name
  double value;        // 0 to 1
  const char *source, *how;
  bool of_groups = false;  // the mean over groups, whatever the task's score is here
};
std::vector<Published> published_for(const Summary& summary);

}  // namespace l4::eval
