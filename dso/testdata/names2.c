/* The other source file of names.c: a function with the same name as one there. */
static __attribute__((noinline, used)) int
twin(int x)
{
    return x - 1;
}

char *
twin_of_other_file(void)
{
    return (char *)twin;
}
