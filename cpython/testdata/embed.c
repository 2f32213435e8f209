/* A program with Python in it, which stands still before, while and after Python is there. Each line read moves on. */
#include <Python.h>
#include <stdio.h>

static void
stand(const char *where)
{
    char line[16];
    puts(where);
    fflush(stdout);
    if (fgets(line, sizeof line, stdin) == NULL)
        exit(1);
}

int
main(void)
{
#ifdef COPY
    /* In a program that is not position-independent this makes it hold the type: see R_X86_64_COPY. */
    printf("%s", PyCode_Check(&PyCode_Type) ? "never\n" : "");
#endif
    stand("ready");
    Py_InitializeEx(0);
    stand("initialized");
    PyRun_SimpleString("import os\n"
                       "def inside():\n"
                       "    os.write(1, b'running\\n'), os.read(0, 1)\n"
                       "inside()\n");
    Py_FinalizeEx();
    stand("finalized");
    return 0;
}
