#include "tools/eval/needle_filler.h"

#include "base/error.h"

namespace l4::eval {

namespace {

using Words = std::vector<const char*>;

const Words kNames{"Anna", "Ben", "Clara", "David", "Emma", "Frank", "Grace", "Henry", "Iris", "Jack",
                   "Kate", "Leo", "Mary",  "Noah",  "Olga", "Paul",  "Rosa",  "Sam",   "Tom",  "Vera"};
const Words kThings{"apple",    "boat",   "book",   "bridge", "candle", "chair", "clock", "coat",   "door", "drum",
                    "field",    "flower", "garden", "hat",    "house",  "key",   "lamp",  "letter", "map",  "mirror",
                    "mountain", "river",  "road",   "ship",   "stone",  "table", "tree",  "window"};
const Words kMany{"birds", "cars", "stars", "trees", "people", "boats", "horses", "lights"};
const Words kDays{"Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"};
const Words kMonths{"January", "February", "March",     "April",   "May",      "June",
                    "July",    "August",   "September", "October", "November", "December"};
const Words kPlaces{"Oslo", "Lisbon", "Rome", "Athens", "Vienna", "Dublin", "Cairo", "Nairobi", "Tokyo", "Lima"};
const Words kShort{"It was a quiet day.", "Nobody knew why.", "Then the rain came.", "The road was long.",
                   "Here we go."};

const Words kOpenings{"For many years",
                      "In a small town",
                      "Long before that",
                      "On most evenings",
                      "By the old harbour",
                      "After the harvest",
                      "At the edge of the valley",
                      "Whenever the weather allowed",
                      "In the first weeks of autumn",
                      "Contrary to what is often said",
                      "As far as anyone remembers",
                      "During the long winter"};
const Words kPeople{"the schoolteacher",
                    "a retired sailor",
                    "the baker's family",
                    "two travelling merchants",
                    "the keeper of the archive",
                    "a careful gardener",
                    "the youngest apprentice",
                    "most of the farmers",
                    "the committee",
                    "a visiting engineer",
                    "the musicians",
                    "their neighbours"};
const Words kDid{"kept a record of",        "argued about",
                 "quietly admired",         "went to great lengths to repair",
                 "had little patience for", "wrote long letters about",
                 "learned to value",        "never quite understood",
                 "took turns describing",   "slowly grew used to"};
const Words kObjects{"the changing colour of the river",
                     "the price of wool",
                     "a clock that was always late",
                     "the paths across the marsh",
                     "songs from another country",
                     "the habits of migrating birds",
                     "an unfinished bridge",
                     "the art of making good bread",
                     "maps of distant coasts",
                     "the sound of the evening bells",
                     "a library without a roof",
                     "the patience of old machines"};
const Words kTurns{"although", "because", "even though", "while", "and in time", "so that", "until", "as if"};
const Words kThen{"few others saw any reason for it",
                  "the days were short",
                  "nothing else seemed to last",
                  "every season asked for something new",
                  "the work was never really done",
                  "it reminded them of home",
                  "there was always a little more to learn",
                  "no one could say where it had begun",
                  "the answer mattered less than the question",
                  "strangers came from far away to see it",
                  "the evenings belonged to stories"};

template <class... Parts>
std::string sentence_of(const Parts&... parts) {
  return cat(parts..., ".");
}

}  // namespace

FillerKind parse_filler_kind(std::string_view name) {
  if (name == "sentences") return FillerKind::sentences;
  if (name == "essay") return FillerKind::essay;
  fail(ErrorKind::usage, "expected sentences or essay, found ", shown(name));
}

const char* filler_kind_name(FillerKind kind) {
  return kind == FillerKind::essay ? "essay" : "sentences";
}

Draws::Draws(std::initializer_list<uint64_t> seeds) {
  std::vector<uint32_t> halves;
  for (const uint64_t seed : seeds) halves.insert(halves.end(), {uint32_t(seed), uint32_t(seed >> 32)});
  std::seed_seq sequence(halves.begin(), halves.end());
  random_.seed(sequence);
}

Filler::Filler(FillerKind kind, uint64_t seed, uint64_t sample) : kind_(kind), draws_{seed, sample} {}

const std::string& Filler::sentence(size_t i) {
  while (sentences_.size() <= i) sentences_.push_back(next());
  return sentences_[i];
}

// Each draw is a statement of its own: the order of a call's arguments is the compiler's.
std::string Filler::next() {
  Draws& d = draws_;
  if (kind_ == FillerKind::essay) {
    const char *opening = d.of(kOpenings), *who = d.of(kPeople), *did = d.of(kDid), *what = d.of(kObjects);
    const char *turn = d.of(kTurns), *then = d.of(kThen);
    return sentence_of(opening, ", ", who, " ", did, " ", what, ", ", turn, " ", then);
  }
  const uint64_t form = d.below(5);
  if (form == 4) return d.of(kShort);
  const char* who = d.of(kNames);
  if (form == 0) {
    const char *one = d.of(kThings), *other = d.of(kThings);
    return sentence_of(who, " has a ", one, " and a ", other);
  }
  if (form == 1) {
    const char *one = d.of(kThings), *other = d.of(kThings);
    return sentence_of("The ", one, " is near the ", other);
  }
  if (form == 2) {
    const char *month = d.of(kMonths), *place = d.of(kPlaces);
    return sentence_of("In ", month, " ", who, " went to ", place);
  }
  const uint64_t n = 2 + d.below(98);
  const char *many = d.of(kMany), *day = d.of(kDays);
  return sentence_of(who, " saw ", n, " ", many, " on ", day);
}

}  // namespace l4::eval
