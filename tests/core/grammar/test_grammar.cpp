#include "grammar/grammar.h"

#include <thread>

#include "base/error.h"
#include "base/strings.h"
#include "core/grammar/small_vocab.h"
#include "core/text/official.h"

using namespace l4;
using namespace l4::test;

namespace {

void check_table(const GrammarPtr& grammar, const std::vector<std::string>& right,
                 const std::vector<std::string>& wrong) {
  for (const std::string& text : right) {
    INFO("right: ", text);
    CHECK(matches(grammar, text));
  }
  for (const std::string& text : wrong) {
    INFO("wrong: ", text);
    CHECK(!matches(grammar, text));
  }
}

}  // namespace

TEST_CASE("regex: what matches") {
  SmallVocab vocab = small_vocab({});
  auto check = [&](const char* pattern, std::vector<std::string> right, std::vector<std::string> wrong) {
    INFO(pattern);
    check_table(compile_regex(vocab.vocab, pattern), right, wrong);
  };
  check("abc", {"abc"}, {"", "ab", "abcd", "xabc"});
  check("a|bc|", {"a", "bc", ""}, {"b", "abc"});
  check("(a|b)*c", {"c", "ababc"}, {"ab", "cc"});
  check("a{2,3}b{2}c{1,}d{0}e{,2}", {"aabbce{,2}", "aaabbccce{,2}"}, {"abbce{,2}", "aabbe{,2}"});
  check("(ab){3,5}", {"ababab", "ababababab"}, {"abab", "abababababab", "ababa"});
  check("[a-c]{10,20}", {"aaaaaaaaaa", std::string(20, 'c')}, {"aaaaaaaaa", std::string(21, 'c'), "aaaaaaaaad"});
  check("(a?){5}b", {"b", "aab", "aaaaab"}, {"aaaaaab"});
  check("(a*b?)*c", {"c", "abbac"}, {"ab"});
  check("((a|b?){2,4}){3}", {"", "aaaaaaaaaaaa", "abab"}, {"aaaaaaaaaaaaa"});
  check("[^a-c\\]\\d-]", {"d", "é", "日", "\n"}, {"a", "]", "5", "-", "dd"});
  check(".", {"x", "é", "\xF0\x9F\x99\x82"},
        {"\n", "\r", "", "\xC3", "\xA9", "\xED\xA0\x80", "\xC0\x80", "\xF5\x80\x80\x80"});
  check("\\d\\w\\s", {"5_ ", "0a\t"}, {"a_ ", "5- "});
  check("\\D\\W\\S", {"a-x"}, {"5-x", "aax"});
  check("\\x41\\u00e9\\u{1F642}\\ud83d\\ude42\\n\\.\\/", {"Aé🙂🙂\n./"}, {});
  check("^(?:a|b)$", {"a", "b"}, {"c"});
  check("^a|b$", {"a", "b"}, {"ab"});
  check("(?<year>\\d{4})-(?P<m>\\d\\d)", {"2024-05"}, {"24-05"});
  check("a+?b*?c??", {"a", "aabbc"}, {"b"});
  check("[\\b\\x00-\\x02\\-x]", {"\b", std::string(1, '\0'), "-", "x"}, {"b", "\x03"});
  check("[\\w.-]+", {"a.b-c"}, {"a b"});
}

TEST_CASE("regex: what is refused, with its place") {
  SmallVocab vocab = small_vocab({});
  auto error = [&](std::string_view pattern) { return error_of([&] { compile_regex(vocab.vocab, pattern); }); };
  CHECK(error("a(b") == "regex: expected ) at offset 3 of \"a(b\"");
  CHECK(error("a)b") == "regex: unexpected ) at offset 1 of \"a)b\"");
  CHECK(error("*a") == "regex: nothing to repeat at offset 0 of \"*a\"");
  CHECK(error("a**") == "regex: nothing to repeat at offset 2 of \"a**\"");
  CHECK(error("[a") == "regex: expected ] at offset 2 of \"[a\"");
  CHECK(error("[b-a]") == "regex: a range from a larger to a smaller character at offset 4 of \"[b-a]\"");
  CHECK(error("a{3,2}") == "regex: a repetition's maximum is below its minimum at offset 1 of \"a{3,2}\"");
  CHECK(error("a(?=b)") == "regex: look-around is not supported at offset 3 of \"a(?=b)\"");
  CHECK(error("(?<!b)a") == "regex: look-around is not supported at offset 2 of \"(?<!b)a\"");
  CHECK(error("(?i)a") == "regex: this kind of group is not supported at offset 2 of \"(?i)a\"");
  CHECK(error("(a)\\1").starts_with("regex: back-references and octal codes are not supported"));
  CHECK(error("a\\bc").starts_with("regex: \\b is not supported"));
  CHECK(error("\\p{L}").starts_with("regex: \\p is not supported"));
  CHECK(error("a^b").starts_with("regex: ^ is only supported at the beginning of an alternative"));
  CHECK(error("a$b").starts_with("regex: $ is only supported at the end of an alternative"));
  CHECK(error("(a$)+").starts_with("regex: $ is only supported"));
  CHECK(error("\\uD800").starts_with("regex: no Unicode character at offset 0"));
  CHECK(error("\\").starts_with("regex: a \\ with nothing behind it"));
  CHECK(error("\xFF") == "regex: not UTF-8");
  CHECK(error("[^\\d\\D]") == "the grammar matches no text at all");
  CHECK(error("a{9999999999}").starts_with("regex: a repetition of more than 1,000,000,000"));
  CHECK(error(std::string(1000, '(')).starts_with("regex: too many groups in each other"));
}

TEST_CASE("choice: one of the texts") {
  SmallVocab vocab = small_vocab({"ca", "cat", "fish"});
  std::vector<std::string> choices = {"cat", "catfish", "dog", "é", "cat"};
  GrammarPtr grammar = compile_choice(vocab.vocab, choices);
  check_table(grammar, {"cat", "catfish", "dog", "é"}, {"", "ca", "catf", "dogs", "cat "});
  GrammarMatcher matcher(grammar);
  CHECK(matcher.accept_bytes("cat"));
  CHECK(matcher.may_end());
  CHECK(!matcher.ended());  // "catfish" is possible
  CHECK(matcher.accept_bytes("fish"));
  CHECK(matcher.ended());
  CHECK(error_of([&] { compile_choice(vocab.vocab, {}); }) == "choice: the list is empty");
}

TEST_CASE("gbnf: llama.cpp's notation") {
  SmallVocab vocab = small_vocab({});
  auto check = [&](const char* text, std::vector<std::string> right, std::vector<std::string> wrong) {
    INFO(text);
    check_table(compile_gbnf(vocab.vocab, text), right, wrong);
  };
  check("root ::= \"a\" b? [0-9]+ # comment\n# another\nb ::= \"x\" |\n  \"y\"\n", {"ax1", "a22", "ay0"},
        {"a", "axy1"});
  check("root ::= ( \"a\"\n | \"b\" # c\n )* \"\\n\"", {"\n", "abba\n"}, {"ab"});
  check("root ::= \"\\x41\\u00e9\\U0001F642\\t\\\\\\\"\" .", {"Aé🙂\t\\\"x", "Aé🙂\t\\\"\n"}, {"A"});
  check("root ::= [^a-z\\]^-] [a\\-z] [x-]", {"A-x", "5z-"}, {"]ax", "-ax", "^ax", "Abx"});
  check("root ::= \"a\"{2} \"b\"{1,} \"c\"{ 0 , 2 }", {"aab", "aabbbcc"}, {"ab", "aabccc", "aa"});
  check("root ::= \"\" | \"(\" root \")\"", {"", "()", "((()))"}, {"(", "(()", "())"});
  check("root   ::= (expr \"=\" term \"\\n\")+\nexpr ::= term ([-+*/] term)*\nterm ::= [0-9]+ | \"(\" expr \")\"\n",
        {"1+2=3\n", "(1*(2-3))=4\n1=1\n"}, {"1+=3\n", "1=1", "(1=1\n"});
  check("root ::= item+\nitem ::= \"- \" [^\\r\\n]+ \"\\n\"", {"- a\n- b c\n"}, {"a\n", "- \n"});
  check("root ::= a_b-c1\na_b-c1 ::= \"x\"", {"x"}, {"y"});

  auto error = [&](std::string_view text) { return error_of([&] { compile_gbnf(vocab.vocab, text); }); };
  CHECK(error("") == "grammar: there is no rule named root");
  CHECK(error("a ::= \"x\"") == "grammar: there is no rule named root");
  CHECK(error("root ::= x") == "grammar: rule \"x\" is used but not defined");
  CHECK(error("root ::= \"a\"\nroot ::= \"b\"") == "grammar: rule \"root\" is defined twice");
  CHECK(error("root := \"a\"") == "grammar, line 1: expected ::= before \":= \"a\"\"");
  CHECK(error("root ::= \"a\"\n  ) x") == "grammar, line 2: expected a rule's name before \") x\"");
  CHECK(error("root ::= (\"a\"") == "grammar, line 1: expected ) at the end");
  CHECK(error("root ::= \"a") == "grammar, line 1: expected \" at the end");
  CHECK(error("root ::= [a") == "grammar, line 1: expected ] at the end");
  CHECK(error("root ::= \"\\q\"").starts_with("grammar, line 1: unknown escape"));
  CHECK(error("root ::= * \"a\"").starts_with("grammar, line 1: nothing to repeat"));
  CHECK(error("root ::= \"a\"{3,2}").starts_with("grammar, line 1: a repetition's maximum"));
  CHECK(error("root ::= root \"a\" | \"b\"") ==
        "rule \"root\" refers to itself before anything is read (left recursion)");
  CHECK(error("root ::= a\na ::= b? c\nb ::= \"x\"\nc ::= a \"y\" | \"z\"").ends_with("(left recursion)"));
  CHECK(error("root ::= \"a\" root") == "the grammar matches no text at all");
  CHECK(error("root ::= <think>").starts_with("grammar, line 1: tokens by name or number are not supported"));
}

TEST_CASE("grammar: masks are exactly the tokens that may come") {
  SmallVocab vocab = json_vocab();
  std::vector<GrammarPtr> grammars;
  for (const char* regex :
       {"[a-z ]+(\\d{1,3}\\.){3}x?", "(ab|abc|abcabc)*\"[^\"]{2,30}\"(, \"[^\"]{0,3}\")*", "(.|\n)*",
        "(a{3,6}b{0,2}){2,9}", "[日本é]{1,40}", "((a|b|c){1,4}){10,200}", "-?\\d+(\\.\\d+)?(e-?\\d+)?", "(abc){7,}",
        "([a-c]{40,90}1|[ab]{30,31}c){2}", "\"(a|b.){60}\"", "([a-c]{2,3}|[ab]+){2}"}) {
    grammars.push_back(compile_regex(vocab.vocab, regex));
  }
  for (const char* gbnf :
       {"root ::= value\nvalue ::= object | array | string | number | \"true\" | \"null\"\n"
        "object ::= \"{\" ws (member (\",\" ws member)*)? \"}\"\nmember ::= string \":\" ws value\n"
        "array ::= \"[\" (value (\",\" ws value)*)? \"]\"\nws ::= \" \"?\nstring ::= \"\\\"\" char* \"\\\"\"\n"
        "char ::= [^\"\\\\\\x00-\\x1f] | \"\\\\\" [\"\\\\n]\nnumber ::= \"-\"? [0-9]+ (\".\" [0-9]+)?\n",
        "root ::= s\ns ::= \"\" | \"(\" s \")\" s | \"[\" s \"]\" s",
        "root ::= a{2,3} root? \"]\"\na ::= \"{\" a{0,2} \"}\" | \"1\"",
        "root ::= word (\" \" word)*\nword ::= [a-e]+ | word2\nword2 ::= \"a\" word2 \"b\" | \"name\""}) {
    grammars.push_back(compile_gbnf(vocab.vocab, gbnf));
  }
  grammars.push_back(compile_json_object(vocab.vocab));
  std::mt19937 random(5);
  for (const GrammarPtr& grammar : grammars) {
    for (int round = 0; round < 4; ++round) random_walk(grammar, vocab, random, 25, true);
  }
}

TEST_CASE("grammar: matchers are copies of their own, and several threads share a grammar") {
  SmallVocab vocab = json_vocab();
  GrammarPtr grammar = compile_json_object(vocab.vocab);
  GrammarMatcher matcher(grammar);
  CHECK(matcher.accept_bytes("{\"a"));
  std::unique_ptr<GrammarMatcher> copy = matcher.clone();
  CHECK(copy->accept_bytes("\": 1}"));
  CHECK(copy->ended());
  CHECK(!matcher.may_end());
  CHECK(!matcher.accept_bytes("\n"));  // nothing changed
  CHECK(!matcher.accept(vocab.eos()));
  CHECK(!matcher.accept(-1));
  CHECK(!matcher.accept(1 << 30));
  CHECK(matcher.accept_bytes("b\": []}"));
  CHECK(matcher.ended());
  CHECK(matcher.accept(vocab.eos()));
  CHECK(!matcher.accept_bytes(" "));

  std::vector<std::thread> threads;
  std::vector<int> ended(4);
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(unsigned(t) + 1);
      for (int round = 0; round < 20; ++round) ended[size_t(t)] += random_walk(grammar, vocab, random, 30, false).ended;
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (int n : ended) CHECK(n > 0);
}

TEST_CASE("grammar: hostile grammars cost a second at most, and one line says why") {
  SmallVocab vocab = json_vocab();
  double begin = cpu_seconds();
  auto survives = [&](const char* what, auto&& compile) {
    INFO(what);
    double start = cpu_seconds();
    try {
      GrammarMatcher matcher(compile());
      std::vector<uint32_t> mask(vocab.tokens.size() / 32 + 1);
      for (int i = 0; i < 300 && matcher.accept_bytes(i % 2 ? "a" : "ab"); ++i) matcher.fill_mask(mask);
    } catch (const Error& e) {
      CHECK(e.kind() == ErrorKind::usage);
      CHECK(e.message().find('\n') == std::string::npos);
      CHECK(e.message().size() < 300);
    }
    CHECK(cpu_seconds() - start < 2 * kSlowdown);
  };
  auto regex = [&](std::string text) { return [&vocab, text] { return compile_regex(vocab.vocab, text); }; };
  auto gbnf = [&](std::string text) { return [&vocab, text] { return compile_gbnf(vocab.vocab, text); }; };
  auto times = [](std::string text, int n) {
    std::string out;
    for (int i = 0; i < n; ++i) out += text;
    return out;
  };
  survives("counts in counts", regex("((((((a|b){1,1000}){1,1000}){1,1000}){1,1000}){1,1000}){1,1000}"));
  survives("stars in stars", regex(times("(", 90) + "a" + times("*)*", 90)));
  survives("large counts", regex("(a|b){100000000,1000000000}"));
  survives("optional parts", regex(cat("(", times("a?", 200), "){3,900}")));
  survives("many optional parts", regex(cat("(", times("a?", 5000), ")*")));
  survives("optional parts in each other", regex(times("(a?", 60) + times(")*", 60)));
  survives("ambiguous", regex("(a|a|ab|b|ba|aa)*(a|b)*(a|ab)*(b|a)*(ab|ba)*x"));
  survives("wide", regex(cat("(", times("[a-z]|", 20000), "b)*")));
  survives("long", regex(times("abcdefgh", 100000)));
  survives("unicode classes", regex(times("[^a]", 5000)));
  survives("classes counted", regex("([^x]{1,500}){1,500}"));
  survives("ambiguous rules", gbnf("root ::= s\ns ::= \"a\" s | \"b\" s | \"ab\" s | \"\" | \"a\" s s"));
  survives("palindromes", gbnf("root ::= \"a\" root \"a\" | \"b\" root \"b\" | \"a\" root | \"b\" root | \"\""));
  std::string chain = "root ::= r0 \"x\"\n";
  for (int i = 0; i < 15000; ++i) chain += cat("r", i, " ::= \"a\" r", i + 1, " | r", i + 1, " \"b\"\n");
  survives("a chain of rules", gbnf(chain + "r15000 ::= \"c\"\n"));
  std::string doubling = "root ::= r0\n";
  for (int i = 0; i < 60; ++i) doubling += cat("r", i, " ::= r", i + 1, " r", i + 1, " | r", i + 1, "\n");
  survives("doubling", gbnf(doubling + "r60 ::= \"a\"?\n"));
  survives("doubling, kept", gbnf(doubling + "r60 ::= \"a\" r0 \"b\" | \"a\"\n"));
  survives("parentheses", gbnf("root ::= " + times("(", 100000)));
  survives("many rules", gbnf(times("r ::= \"a\"\n", 100000)));
  CHECK(cpu_seconds() - begin < 20 * kSlowdown);
}

TEST_CASE("grammar: memory stays bounded and a reply goes on after masks were forgotten") {
  SmallVocab vocab = json_vocab();
  // Every bracket is another stack, every length another count: nothing repeats.
  GrammarPtr grammar = compile_gbnf(vocab.vocab, "root ::= \"[\" (root | [a-c]{5,5000})? \"]\" | \"(\" root \")\"");
  std::mt19937 random(3);
  std::vector<std::unique_ptr<GrammarMatcher>> matchers;
  std::string opened;
  GrammarMatcher matcher(grammar);
  for (int i = 0; i < 400000; ++i) {
    char c = random() % 2 ? '[' : '(';
    opened.push_back(c);
    REQUIRE(matcher.accept_bytes(std::string(1, c)));
    if (i % 50000 == 0) matchers.push_back(matcher.clone());
  }
  REQUIRE(matcher.accept_bytes("[" + std::string(3000, 'a') + "]"));
  checked_mask(matcher, vocab);
  for (size_t i = opened.size(); i-- > 0;) REQUIRE(matcher.accept_bytes(opened[i] == '[' ? "]" : ")"));
  CHECK(matcher.ended());
  for (auto& old : matchers) {
    checked_mask(*old, vocab);
    CHECK(old->accept_bytes("[]"));
    CHECK(!old->accept_bytes("["));
  }
}
