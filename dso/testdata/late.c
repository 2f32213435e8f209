/* A library with two versions of one name. */
int
versioned_old(int x)
{
    return x + 1;
}

int
versioned_new(int x)
{
    return x + 2;
}

__asm__(".symver versioned_old, versioned@OLD");
__asm__(".symver versioned_new, versioned@@NEW");

static __attribute__((noinline, used)) int
internal_of_library(int x)
{
    return x * 5;
}

int
late_function(int x)
{
    return internal_of_library(x);
}

#ifdef HAVE_IFUNC
static int (*choose(void))(int)
{
    return internal_of_library;
}

/* Nobody refers to it, so nobody has bound it. */
int lonely(int x) __attribute__((ifunc("choose")));
#endif
