/* A library that is loaded while its process is tracked, and that only its user's run path leads to. */
#include <stdlib.h>

void *late(size_t size) { return malloc(size); }
