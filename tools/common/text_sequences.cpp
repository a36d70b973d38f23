#include "tools/common/text_sequences.h"

#include <algorithm>

#include "base/strings.h"
#include "formats/json.h"
#include "text/chat_template.h"
#include "tools/common/model_flags.h"

namespace l4::tools {

namespace {

std::vector<int32_t> ids_of_line(const Json& line, const Frontend& frontend) {
  if (!line.is_object()) fail_input("expected an object, found ", line.kind_name());
  if (line.find("messages")) {
    ChatRequest chat = chat_request_from_json(line);
    chat.add_generation_prompt = false;
    return frontend.prompt_from_chat(chat).ids;
  }
  const Json* text = line.find("text");
  if (!text || !text->is_string()) fail_input("expected \"text\" or \"messages\"");
  return frontend.prompt_from_text(text->as_string(), true).ids;
}

}  // namespace

Sequences read_sequences(const fs::path& file, const Frontend& frontend, int64_t length, int64_t most) {
  const std::string text = read_text(file);
  Sequences sequences;
  int64_t left = most;
  const auto add = [&](std::vector<int32_t> ids) {
    ids.resize(size_t(std::min({int64_t(ids.size()), length, left})));
    left -= int64_t(ids.size());
    if (!ids.empty()) sequences.push_back(std::move(ids));
  };
  if (trim(text).empty()) fail_input(file.string(), ": expected text, found none");
  if (file.extension() == ".jsonl") {
    size_t number = 0;
    for (const std::string& words : split(text, '\n')) {
      ++number;
      if (left == 0) break;
      if (trim(words).empty()) continue;
      const std::string place = cat(file.string(), ": line ", number);
      const Json line = parse_json(words, place);
      try {
        add(ids_of_line(line, frontend));
      } catch (const Error& e) {
        throw Error(e.kind(), cat(place, ": ", e.message()));
      }
    }
    return sequences;
  }
  const std::vector<int32_t> ids = frontend.prompt_from_text(text, true).ids;
  const std::optional<int32_t> begin = frontend.tokenizer().bos_id();
  const size_t n_begin = begin && ids[0] == *begin ? 1 : 0;
  const size_t step = size_t(length) - n_begin;
  for (size_t i = n_begin; i < ids.size() && left > 0; i += step) {
    std::vector<int32_t> sequence(ids.begin(), ids.begin() + int64_t(n_begin));
    sequence.insert(sequence.end(), ids.begin() + int64_t(i), ids.begin() + int64_t(std::min(i + step, ids.size())));
    add(std::move(sequence));
  }
  return sequences;
}

int64_t count_tokens(const Sequences& sequences) {
  int64_t n = 0;
  for (const auto& ids : sequences) n += int64_t(ids.size());
  return n;
}

Sequences take_tokens(Sequences& sequences, int64_t most) {
  size_t n = 0;
  while (n < sequences.size() && most > 0) {
    sequences[n].resize(size_t(std::min(int64_t(sequences[n].size()), most)));
    most -= int64_t(sequences[n++].size());
  }
  Sequences taken(std::make_move_iterator(sequences.begin()), std::make_move_iterator(sequences.begin() + int64_t(n)));
  sequences.erase(sequences.begin(), sequences.begin() + int64_t(n));
  return taken;
}

const char* const kBuiltInText =
    R"(The harbour lies on the north side of the island, behind a low wall of grey stone that was built in 1874 and has
been repaired after every hard winter since. In summer three boats a day bring visitors, most of them from the mainland,
who walk up to the lighthouse, eat their bread on the grass and go home before dark. In winter there is one boat a week,
if the weather allows it.

The keeper of the lighthouse, a woman of about sixty, writes down the wind and the height of the water each morning at
seven. "Nobody reads it," she says, "but if I stopped, somebody would ask why." Her books go back 41 years; those of the
keepers before her fill two shelves. A student once copied the numbers into a table and found that the water now stands
9.2 centimetres higher than in the first of them.

What does one need to live here? First, a stove that burns wood as well as coal. Second, a good pair of boots. Third,
patience: the shop orders what you ask for, and it comes when it comes. People who move here for the quiet often leave
after two years, because of the quiet. Those who stay have usually found some work to do with their hands, such as
mending nets, keeping bees, or building the small blue boats for which the island is known.

def tide(hours, mean=2.4, range=1.6):
    """Height of the water in metres, so many hours after high water."""
    return mean + range / 2 * math.cos(2 * math.pi * hours / 12.42)

| month | boats | visitors |
| --- | ---: | ---: |
| June | 84 | 2,310 |
| July | 93 | 3,875 |
| August | 93 | 4,102 |

L'hiver, le vent vient du nord-est. Im Winter kommt der Wind aus Nordosten. El barco sale a las ocho y media.
)";

}  // namespace l4::tools
