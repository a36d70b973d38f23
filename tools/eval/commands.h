// What l4-eval measures: a function for each word after its name. argv[0] is that word; the exit status is returned.
#pragma once

namespace l4::eval {

int mmlu_pro_main(int argc, char** argv);
int chartqa_main(int argc, char** argv);
int questions_main(int argc, char** argv);
int needle_main(int argc, char** argv);
int perplexity_main(int argc, char** argv);
int report_main(int argc, char** argv);
int compare_main(int argc, char** argv);
int logits_main(int argc, char** argv);
int generate_main(int argc, char** argv);

}  // namespace l4::eval
