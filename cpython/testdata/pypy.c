/* Exports what PyPy's library does. */
#include <stdio.h>

int
pypy_main_startup(int argc, char **argv)
{
    return argc + (argv == NULL);
}

int
main(void)
{
    puts("ready");
    fflush(stdout);
    return getchar() == EOF;
}
