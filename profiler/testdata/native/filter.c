/* A seccomp filter that kills the process for what only an agent calls; see filter_test.go. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define KILL_IF(value) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS)

static struct sock_filter code[] = {
	LOAD(nr),
	KILL_IF(SYS_process_vm_readv),
	KILL_IF(SYS_process_vm_writev),
	KILL_IF(SYS_tgkill),
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_prctl, 0, 3),
	LOAD(args[0]),
	KILL_IF(PR_GET_NAME),
	BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
};

static struct sock_fprog program = {sizeof code / sizeof *code, code};

void *filter_program(void) { return &program; }
int filter_allow(void) { return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); }
int filter_prctl(void) { return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0); }
int filter_syscall(void) { return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program); }
int filter_indirectly(void) { return (int)syscall(SYS_prctl, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0); }

/* More arguments than registers hold, and errors, as without a hook. */
int filter_passes(void)
{
	errno = 0;
	long none = syscall(-1L, 1, 2, 3, 4, 5, 6);
	return none == -1 && errno == ENOSYS && syscall(SYS_getpid) == getpid() && prctl(PR_GET_DUMPABLE) == 1;
}

static void *allocating(void *arg)
{
	memset(malloc(1000), 1, 1000);
	return arg;
}

/* A thread that the agent has not seen before. */
int filter_thread(void)
{
	pthread_t thread;
	return pthread_create(&thread, 0, allocating, 0) || pthread_join(thread, 0);
}
