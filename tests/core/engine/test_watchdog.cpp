#include "engine/watchdog.h"

#include <atomic>
#include <future>

#include "support/test.h"

using namespace l4;

TEST_CASE("watchdog: barks once when the end does not come in time, and not before") {
  std::atomic<int> n_late{0};
  std::promise<void> late;
  Watchdog dog(std::chrono::milliseconds(200), [&] {
    if (n_late++ == 0) late.set_value();
  });
  for (int i = 0; i < 20; ++i) {
    dog.begin();
    dog.end();
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(250));  // nothing is watched
  CHECK(n_late == 0);
  dog.begin();
  late.get_future().wait();
  dog.end();
  dog.begin();
  std::this_thread::sleep_for(std::chrono::milliseconds(250));
  CHECK(n_late == 1);
  Watchdog off(std::chrono::seconds(0), [&] { ++n_late; });
  off.begin();
  off.end();
}
