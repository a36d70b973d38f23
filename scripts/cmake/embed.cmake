# Writes the text file IN to OUT as a C++ string literal.
file(READ ${IN} text)
file(WRITE ${OUT} "R\"l4embed(${text})l4embed\"\n")
