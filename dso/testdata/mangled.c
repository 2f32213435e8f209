/* Functions under names that g++ and rustc gave to their like, and the C++ library, opened. */
#include <dlfcn.h>
#include <stdio.h>

#define FUNCTION(id, mangled) \
    int id(int x) __asm__(mangled); \
    __attribute__((noinline, used)) int id(int x) { return x + __LINE__; }

FUNCTION(f_int, "_ZN2ns1fEi")
FUNCTION(f_double, "_ZN2ns1fEd")
FUNCTION(lone, "_Z4lonei")
FUNCTION(constructor, "_ZN2ns3FooC1Ei")
FUNCTION(plus, "_ZNK2ns3FooplERKS0_")
FUNCTION(template, "_ZN2ns7biggestIiEET_S1_S1_")
FUNCTION(rust_old, "_ZN1b5inner4deep17hd7ff53cd35bdbfafE")
FUNCTION(rust_new, "_RNvNtCsj6gjteTz5uu_1b6inner26deeper")
FUNCTION(rust_trait, "_RNvXs_NtCsj6gjteTz5uu_1b5innerNtB4_1PNtB4_2Tr2go")
int global __asm__("_ZN2ns6globalE") = 3;

int
main(void)
{
    void *library = dlopen("libstdc++.so.6", RTLD_NOW | RTLD_LOCAL);
    printf("own - %p _ZN2ns1fEi\n", (void *)f_int);
    printf("own - %p _ZN2ns1fEd\n", (void *)f_double);
    printf("own - %p _Z4lonei\n", (void *)lone);
    printf("own - %p _ZN2ns3FooC1Ei\n", (void *)constructor);
    printf("own - %p _ZNK2ns3FooplERKS0_\n", (void *)plus);
    printf("own - %p _ZN2ns7biggestIiEET_S1_S1_\n", (void *)template);
    printf("own - %p _ZN1b5inner4deep17hd7ff53cd35bdbfafE\n", (void *)rust_old);
    printf("own - %p _RNvNtCsj6gjteTz5uu_1b6inner26deeper\n", (void *)rust_new);
    printf("own - %p _RNvXs_NtCsj6gjteTz5uu_1b5innerNtB4_1PNtB4_2Tr2go\n", (void *)rust_trait);
    printf("own - %p _ZN2ns6globalE\n", (void *)&global);
    printf("library - %p _ZSt17__throw_bad_allocv\n", dlsym(library, "_ZSt17__throw_bad_allocv"));
    printf("library - %p _ZNSs6appendEPKcm\n", dlsym(library, "_ZNSs6appendEPKcm"));
    puts("ready");
    fflush(stdout);
    return getchar() == 'x' ? f_int(1) : 0;
}
