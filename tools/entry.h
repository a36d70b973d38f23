// The entry points of the five tools, which are one program (tools/main.cpp). Each returns the exit status: 0 done, 1 the
// work failed, 2 the command line is wrong. argv[0] is the tool's name ("l4-run"). They may throw l4::Error.
#pragma once

int l4_run_main(int argc, char** argv);
int l4_serve_main(int argc, char** argv);
int l4_bench_main(int argc, char** argv);
int l4_convert_main(int argc, char** argv);
int l4_eval_main(int argc, char** argv);
