/* A module with many words for the loader to fill, its slots among them; see copies_test.go. */
#include <stdlib.h>
#define A(n) extern int n(int) __attribute__((weak));
#define B(n) A(n##0) A(n##1) A(n##2) A(n##3) A(n##4) A(n##5) A(n##6) A(n##7)
#define C(n) B(n##0) B(n##1) B(n##2) B(n##3) B(n##4) B(n##5) B(n##6) B(n##7)
#define D(n) C(n##0) C(n##1) C(n##2) C(n##3) C(n##4) C(n##5) C(n##6) C(n##7)
#define E(n) D(n##0) D(n##1) D(n##2) D(n##3) D(n##4) D(n##5) D(n##6) D(n##7)
E(nobody_)
#undef A
#define A(n) n,
int (*const all[])(int) = {E(nobody_)};
void work(void) { free(malloc(7)); }
