// All that calibration can see of a model's run: the rows of every linear's input, and the sizes of keys and values.
#pragma once

#include <algorithm>
#include <map>
#include <span>
#include <vector>

#include "tools/convert/layer_runner.h"

namespace l4::test {

class Recorder : public convert::InputObserver {
 public:
  bool wants(convert::Site, int64_t) const override { return true; }
  void inputs(convert::Site site, int64_t expert, std::span<const float> rows) override {
    std::vector<float>& all = found[{site, expert}];
    all.insert(all.end(), rows.begin(), rows.end());
  }
  bool wants_cache() const override { return true; }
  void cache(float k_now, float v_now) override { k = std::max(k, k_now), v = std::max(v, v_now); }

  std::map<std::pair<convert::Site, int64_t>, std::vector<float>> found;
  float k = 0, v = 0;
};

}  // namespace l4::test
