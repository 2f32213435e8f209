// Calls itself.
__attribute__((noinline)) static int down(volatile int n) { return n == 0 ? 0 : down(n - 1) + 1; }

int main(void) { return down(100) - 100; }
