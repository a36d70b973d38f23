#include "tools/eval/interrupt.h"

#include "tools/common/signals.h"

namespace l4::eval {

void throw_if_interrupted() {
  if (const int signal = tools::asked_to_end(); signal != 0) throw Interrupted(128 + signal);
  if (tools::take_interrupts() > 0) throw Interrupted(130);
}

}  // namespace l4::eval
