/* A program that embeds Python, as an application does that brings its own main: the interpreter comes from a shared
   library, runs in a thread that is not the first one, and is finalised before the program ends. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <pthread.h>
#include <stdio.h>

struct command {
    int argc;
    char **argv;
    int code;
};

static void *run(void *argument)
{
    struct command *command = argument;
    PyConfig config;
    PyStatus status;

    PyConfig_InitPythonConfig(&config);
    status = PyConfig_SetBytesArgv(&config, command->argc, command->argv);
    if (!PyStatus_Exception(status))
        status = Py_InitializeFromConfig(&config);
    PyConfig_Clear(&config);
    if (PyStatus_Exception(status)) {
        fprintf(stderr, "embed: %s\n", status.err_msg ? status.err_msg : "cannot initialise");
        command->code = 1;
        return NULL;
    }
    command->code = Py_RunMain();
    return NULL;
}

int main(int argc, char **argv)
{
    struct command command = {argc, argv, 0};
    pthread_t thread;

    if (pthread_create(&thread, NULL, run, &command) != 0 || pthread_join(thread, NULL) != 0) {
        fprintf(stderr, "embed: cannot run a thread\n");
        return 1;
    }
    return command.code;
}
