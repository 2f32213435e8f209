/* Says where things of its own and of its libraries are, and waits. Linked with names2.c.

   Arguments: a library to open late and once more in a link namespace of its own. Then each line of input is a number,
   which calls strtol, or a name to look up. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#ifdef HAVE_DLOPEN
#include <dlfcn.h>
#endif

extern char *twin_of_other_file(void);
int global_object = 7;
static int hidden_object = 8;
__thread int thread_local_object = 9;

static __attribute__((noinline, used)) int
hidden_helper(int x)
{
    return x * hidden_object + thread_local_object;
}

static __attribute__((noinline, used)) int
twin(int x)
{
    return x + global_object;
}

__attribute__((noinline, used)) int
global_function(int x)
{
    return hidden_helper(x) + twin(x);
}

#ifdef HAVE_IFUNC
static int
implementation(void)
{
    return 42;
}

static int (*choose(void))(void)
{
    return implementation;
}

int chosen(void) __attribute__((ifunc("choose")));
#endif

/* Pointers in initialised data, which the loader relocates. */
int (*const table[])(int) = {global_function, twin};
void *(*volatile allocator)(size_t) = malloc;
size_t (*volatile counter)(const char *) = strlen;
time_t (*volatile teller)(time_t *) = time;

#ifdef HAVE_DLOPEN
static void
open_late(const char *path)
{
    void *late = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!late)
        printf("error - 0 %s\n", dlerror());
    printf("late - %p versioned\n", dlsym(late, "versioned"));
    printf("late - %p late_function\n", dlsym(late, "late_function"));
#ifdef __GLIBC__
    printf("late OLD %p versioned\n", dlvsym(late, "versioned", "OLD"));
    printf("late NEW %p versioned\n", dlvsym(late, "versioned", "NEW"));
    void *again = dlmopen(LM_ID_NEWLM, path, RTLD_NOW);
    printf("again - %p late_function\n", dlsym(again, "late_function"));
    printf("bound - %p strlen\n", dlsym(RTLD_DEFAULT, "strlen"));
    printf("bound - %p memcpy\n", dlsym(RTLD_DEFAULT, "memcpy"));
    printf("bound - %p time\n", dlsym(RTLD_DEFAULT, "time"));
#endif
    printf("libc - %p getenv\n", dlsym(RTLD_DEFAULT, "getenv"));
    printf("libc - %p malloc\n", dlsym(RTLD_DEFAULT, "malloc"));
    printf("libc - %p strtol\n", dlsym(RTLD_DEFAULT, "strtol"));
}
#endif

int
main(int argc, char **argv)
{
    char line[256];
    time(NULL);
    printf("own - %p hidden_helper\n", (void *)hidden_helper);
    printf("own - %p twin\n", (void *)twin);
    printf("own2 - %p twin\n", (void *)twin_of_other_file());
    printf("own - %p global_function\n", (void *)global_function);
    printf("own - %p global_object\n", (void *)&global_object);
    printf("own - %p hidden_object\n", (void *)&hidden_object);
    printf("stream - %p stderr\n", (void *)&stderr);
#ifdef HAVE_IFUNC
    printf("chosen - %p chosen\n", (void *)implementation);
    printf("called - %p chosen\n", (void *)(long)chosen());
#endif
#ifdef HAVE_DLOPEN
    if (argc > 1)
        open_late(argv[1]);
#endif
    printf("table - %p table\n", (void *)table);
    puts("ready");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
#ifdef HAVE_DLOPEN
        if (line[0] > '9') {
            printf("dlsym - 0x%lx %s\n", (unsigned long)dlsym(RTLD_DEFAULT, line), line);
            puts("ready");
            fflush(stdout);
            continue;
        }
#endif
        printf("answer - 0x%lx strtol\n", strtol(line, NULL, 10));
        puts("ready");
        fflush(stdout);
    }
    return global_function(0) == 3;
}
