/* Tells which objects are loaded and where some symbols are, as the loader sees it, and then waits.

   Arguments: a library to load twice, into this link namespace and into a new one; a file to map only to read it. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <link.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#ifdef HAVE_DLOPEN
#include <dlfcn.h>
#endif

int exported_data = 1;
__thread int exported_tls = 2;

__attribute__((noinline, used)) int
exported_function(int x)
{
    return x + exported_data + exported_tls;
}

static int
each(struct dl_phdr_info *info, size_t size, void *data)
{
    (void)size, (void)data;
    printf("object %lx %u %s\n", (unsigned long)info->dlpi_addr, (unsigned)info->dlpi_phnum, info->dlpi_name);
    return 0;
}

#ifdef HAVE_DLOPEN
/* Moves a page of code out of its file, as programs do that want their code on huge pages. */
static void
move(char *page)
{
    char copy[4096];
    memcpy(copy, page, sizeof copy);
    if (mmap(page, sizeof copy, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
        return;
    memcpy(page, copy, sizeof copy);
    mprotect(page, sizeof copy, PROT_READ | PROT_EXEC);
}

static void
load(char *path)
{
    void *local = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    char *function = dlsym(local, "library_function");
    printf("local - %p\n", (void *)function);
    move(function - (unsigned long)function % 4096);
#ifdef __GLIBC__
    void *other = dlmopen(LM_ID_NEWLM, path, RTLD_NOW);
    printf("other - %p\n", dlsym(other, "library_function"));
    printf("symbol - %p realpath\n", dlsym(RTLD_DEFAULT, "realpath"));
    printf("symbol GLIBC_2.2.5 %p realpath\n", dlvsym(RTLD_DEFAULT, "realpath", "GLIBC_2.2.5"));
    printf("symbol GLIBC_2.3 %p realpath\n", dlvsym(RTLD_DEFAULT, "realpath", "GLIBC_2.3"));
#endif
    printf("symbol - %p free\n", dlsym(RTLD_DEFAULT, "free"));
}
#endif

int
main(int argc, char **argv)
{
    printf("own - %p exported_function\n", (void *)exported_function);
    printf("own - %p exported_data\n", (void *)&exported_data);
#ifdef HAVE_DLOPEN
    if (argc > 1)
        load(argv[1]);
#endif
    if (argc > 2) {
        int fd = open(argv[2], O_RDONLY);
        printf("mapped - %p\n", mmap(NULL, 1 << 14, PROT_READ, MAP_PRIVATE, fd, 0));
        printf("mapped - %p\n", mmap(NULL, 1 << 14, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0));
    }
    dl_iterate_phdr(each, NULL);
    puts("ready");
    fflush(stdout);
    return getchar() == EOF && exported_function(0) == 3;
}
