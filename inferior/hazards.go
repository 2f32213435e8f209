package inferior

import (
	"path"
	"strings"
)

// Resources are things that a function may hold while it runs, and that another needs: a function may be called in a
// thread that stands still if the thread holds nothing that the function needs.
type Resources uint16

// The resources.
const (
	Allocator   Resources = 1 << iota // malloc's arenas and caches
	Loader                            // the dynamic loader's lock and lists
	Stdio                             // FILE locks and buffers
	Library                           // other locks of the C library: its environment, time zone, locale, exit handlers
	Threads                           // the thread library's own: creating and ending threads, mutexes half taken
	Interpreter                       // Python's structures
)

// everything is what a function needs of which nothing is known.
const everything = Allocator | Loader | Stdio | Library | Threads

// names are what messages call the resources.
var resourceNames = []struct {
	one  Resources
	name string
}{
	{Allocator, "the allocator"}, {Loader, "the loader"}, {Stdio, "stdio"}, {Library, "a lock of the C library"},
	{Threads, "the thread library"}, {Interpreter, "the interpreter"},
}

// String is "the allocator, stdio"; "nothing" for none.
func (r Resources) String() string {
	var out []string
	for _, n := range resourceNames {
		if r&n.one != 0 {
			out = append(out, n.name)
		}
	}
	if out == nil {
		return "nothing"
	}
	return strings.Join(out, ", ")
}

// holder says what is held while a function of one of these names, or of one of these modules, is on the stack. Names may
// have wildcards and are compared without what compilers add to them. The first row that matches counts.
type holder struct {
	functions string
	modules   string // file names; "" is any
	library   bool   // only functions of the C library: elsewhere the names may mean anything
	holds     Resources
	// passing is what is held only while the function itself executes, not while it waits in a system call or has called
	// something else: a thread that waits for a mutex has not got it.
	passing bool
}

// holders is what this package knows of who holds what. A function that calls malloc holds the allocator only while it
// does, and then malloc is on the stack as well. Sources: the locks taken in glibc 2.28 to 2.41, musl 1.2,
// jemalloc 5, tcmalloc (gperftools 2.10), mimalloc 2.
var holders = []holder{
	{holds: Allocator, functions: `malloc free calloc realloc reallocarray cfree memalign aligned_alloc posix_memalign
		valloc pvalloc je_* mallocx rallocx xallocx sallocx dallocx sdallocx nallocx mallctl* tc_malloc* tc_free* tc_calloc*
		tc_realloc* tc_new* tc_delete* tc_memalign* tc_posix_memalign* tc_valloc* tcmalloc::* MallocExtension::* TCMalloc_*
		mi_* _mi_* operator_new* operator_delete* _Znw* _Zna* _Zdl* _Zda*`},
	{holds: Allocator, modules: `libjemalloc.so* libtcmalloc*.so* libmimalloc*.so* libhoard.so* libsnmalloc*.so*
		librpmalloc*.so* libscudo*.so*`},
	{holds: Allocator, library: true, functions: `malloc_trim malloc_stats malloc_info mallinfo mallinfo2 mallopt
		malloc_usable_size __libc_malloc* __libc_free* __libc_calloc __libc_realloc __libc_memalign __libc_valloc
		__libc_pvalloc __libc_mallopt __libc_mallinfo __malloc_* __free_* _int_malloc _int_free* _int_realloc
		_int_memalign malloc_consolidate sysmalloc* systrim unlink_chunk arena_get* tcache_* ptmalloc_init _mid_memalign
		munmap_chunk mremap_chunk heap_trim new_heap malloc_printerr alloc_slot alloc_group nontrivial_free
		__expand_heap __bin_chunk __memalign_hook`},
	{holds: Loader, modules: `ld-linux*.so* ld64.so* ld-2.*.so`},
	{holds: Loader, functions: `_Unwind_Find_* __register_frame* __deregister_frame*`},
	{holds: Loader, library: true, functions: `dlopen dlmopen dlclose dlsym dlvsym dladdr dladdr1 dlinfo
		dl_iterate_phdr __dl_iterate_phdr dlopen_* dlclose_* dlsym_* __libc_dlopen* __libc_dlsym* __libc_dlclose* _dl_*
		__dlopen __dlclose __dlsym __tls_get_addr* __tls_get_new do_dlsym load_library map_library reloc_all __dls*`},
	{holds: Threads | Allocator | Stdio, library: true, functions: `fork _Fork __libc_fork vfork __run_fork_handlers
		posix_spawn* __posix_spawn* __spawni* system popen pclose forkpty daemon wordexp`},
	{holds: Stdio, library: true, functions: `printf fprintf vprintf vfprintf dprintf vdprintf wprintf fwprintf
		vwprintf vfwprintf *printf_chk __vfprintf_internal __vfwprintf_internal printf_positional printf_core wprintf_core
		puts fputs putc putchar fputc putw fwrite fputwc fputws putwc putwchar
		gets fgets getc getchar fgetc getw fread getline getdelim __getdelim fgetwc fgetws getwc getwchar ungetc ungetwc
		scanf fscanf vscanf vfscanf wscanf fwscanf __isoc99_* __isoc23_*scanf __vfscanf_internal
		fflush fopen fopen64 fdopen freopen freopen64 fclose fcloseall fmemopen open_memstream setvbuf setbuf setbuffer
		setlinebuf fseek fseeko fseeko64 ftell ftello ftello64 rewind fgetpos fsetpos fgetpos64 fsetpos64
		perror psignal psiginfo err errx warn warnx verr verrx vwarn vwarnx error error_at_line
		flockfile ftrylockfile funlockfile *_unlocked _IO_* __overflow __uflow __underflow __woverflow __wuflow
		new_do_write buffered_vfprintf __stdio_* __towrite* __toread* __fwritex __lockfile __unlockfile __ofl_*`},
	{holds: Library, library: true, functions: `setenv putenv unsetenv clearenv __add_to_environ tzset
		localtime localtime_r mktime timelocal strftime strftime_l wcsftime __tz* __do_tzset do_tzset
		syslog vsyslog __vsyslog* openlog closelog setlogmask getpw* getgr* getsp* getgrouplist initgroups __nss_* nss_*
		gethostby* getaddrinfo freeaddrinfo getnameinfo getserv* getproto* getnet* gaih_* res_* __res_* ns_*
		random srandom rand srand initstate setstate drand48 lrand48 mrand48
		atexit on_exit at_quick_exit __cxa_atexit __cxa_at_quick_exit __cxa_finalize exit quick_exit __run_exit_handlers
		setlocale newlocale uselocale freelocale duplocale _nl_* textdomain bindtextdomain gettext dgettext dcgettext
		iconv_open iconv_close __gconv* abort getmntent* regcomp glob`},
	{holds: Threads, library: true, functions: `pthread_create __pthread_create* pthread_exit __pthread_exit
		thrd_create thrd_exit __pthread_unwind* __do_cancel pthread_once __pthread_once* call_once pthread_key_create
		pthread_key_delete pthread_atfork __register_atfork __call_tls_dtors __nptl_* __libc_thread_freeres*
		pthread_getattr_np sem_open sem_close`},
	{holds: Threads, passing: true, library: true, functions: `pthread_* __pthread_* ___pthread_* __lll_* lll_* sem_*
		__new_sem_* __old_sem_* mtx_* cnd_* futex_* __futex_*`},
	{holds: Threads, functions: `__cxa_guard_acquire`, passing: true},
}

// needs is what functions need: those of the C library by these names, and the allocators' by theirs. What is in no row
// needs everything.
var needs = []struct {
	needs     Resources
	functions string
}{
	{Allocator, `malloc free calloc realloc reallocarray memalign aligned_alloc posix_memalign valloc pvalloc malloc_trim
		malloc_usable_size mallinfo mallinfo2 mallopt strdup strndup wcsdup __strdup __strndup
		je_* mallocx rallocx xallocx sallocx dallocx sdallocx nallocx mallctl* mi_* operator_new* operator_delete*`},
	{Allocator | Stdio, `printf fprintf vprintf vfprintf dprintf vdprintf sprintf snprintf vsprintf vsnprintf asprintf
		vasprintf puts fputs putc putchar fputc fwrite gets fgets getc getchar fgetc fread getline getdelim ungetc scanf
		fscanf sscanf fflush fopen fopen64 fdopen freopen fclose setvbuf setbuf fseek ftell rewind perror
		malloc_stats malloc_info *_unlocked fileno feof ferror clearerr`},
	{Allocator | Loader, `dlopen dlmopen dlclose dlsym dlvsym dladdr dladdr1 dlinfo dl_iterate_phdr dlerror
		__libc_dlopen_mode backtrace backtrace_symbols backtrace_symbols_fd`},
	{Allocator | Library, `setenv putenv unsetenv clearenv tzset localtime localtime_r mktime strftime setlocale
		random srandom rand srand strerror strsignal gmtime ctime asctime`},
	// signal-safety(7), and what is like them.
	{0, `_exit _Exit accept accept4 access alarm bind chdir chmod chown clock_gettime close connect dup dup2 dup3
		faccessat fchdir fchmod fchmodat fchown fchownat fcntl fdatasync fpathconf fstat fstatat fsync ftruncate futimens
		getcpu getegid geteuid getgid getgroups getpagesize getpeername getpgid getpgrp getpid getppid getpriority
		getrlimit getrlimit64 getrusage getsid getsockname getsockopt gettid gettimeofday getuid ioctl kill killpg link
		linkat listen lseek lseek64 lstat madvise mincore mkdir mkdirat mkfifo mkfifoat mknod mknodat mlock mlockall mmap
		mmap64 mprotect mremap msync munlock munmap open open64 openat openat64 pathconf pause pipe pipe2 poll ppoll prctl
		pread pread64 preadv prlimit prlimit64 process_vm_readv process_vm_writev pselect pthread_kill pthread_self
		pthread_sigmask ptrace pwrite pwrite64 raise read readlink readlinkat readv recv recvfrom recvmsg rename
		renameat renameat2 rmdir sched_getaffinity sched_getcpu sched_getparam sched_getscheduler sched_setaffinity
		sched_yield select send sendfile sendmsg sendto setgid setitimer setpgid setpriority setrlimit setsid
		setsockopt setuid shutdown sigaction sigaddset sigaltstack sigdelset sigemptyset sigfillset sigismember signal
		sigpending sigprocmask sigqueue sigsuspend sleep nanosleep clock_nanosleep usleep socket socketpair splice stat
		statfs fstatfs statx statvfs symlink symlinkat sync syncfs sysinfo syscall tcdrain tcflow tcflush tcgetattr
		tcgetpgrp tcsendbreak tcsetattr tcsetpgrp tee tgkill time timer_getoverrun timer_gettime timer_settime times umask
		uname unlink unlinkat utime utimensat utimes vmsplice wait waitid waitpid wait3 wait4 write writev brk sbrk
		memfd_create eventfd eventfd_read eventfd_write epoll_create epoll_create1 epoll_ctl epoll_wait
		inotify_add_watch timerfd_create timerfd_settime timerfd_gettime getrandom getentropy gethostid gethostname
		__errno_location ___errno_location getauxval __getauxval gnu_get_libc_version gnu_get_libc_release isatty
		sysconf clock clock_getres personality difftime`},
	// Functions of their arguments alone.
	{0, `memcpy memmove memset memcmp memchr memrchr memmem mempcpy memccpy rawmemchr bcmp bcopy bzero explicit_bzero
		strlen strnlen strcmp strncmp strcasecmp strncasecmp strchr strrchr strchrnul strstr strcasestr strspn strcspn
		strpbrk strcpy strncpy strcat strncat stpcpy stpncpy strtok_r strsep strverscmp strtol strtoul strtoll strtoull
		strtod strtof strtold atoi atol atoll atof index rindex ffs ffsl ffsll
		wcslen wcsnlen wcscmp wcsncmp wcschr wcsrchr wcsstr wcscpy wcsncpy wmemcpy wmemset wmemcmp wmemchr
		isalnum isalpha isblank iscntrl isdigit isgraph islower isprint ispunct isspace isupper isxdigit tolower toupper
		abs labs llabs imaxabs div ldiv lldiv htonl htons ntohl ntohs inet_addr inet_aton inet_pton inet_ntop
		cos cosf cosl sin sinf sinl tan tanf tanl acos acosf asin asinf atan atanf atan2 atan2f cosh coshf sinh sinhf tanh
		tanhf acosh asinh atanh exp expf expl exp2 exp2f exp10 expm1 log logf logl log2 log2f log10 log10f log1p pow powf
		powl sqrt sqrtf sqrtl cbrt cbrtf hypot hypotf fabs fabsf fabsl floor floorf floorl ceil ceilf ceill round roundf
		roundl trunc truncf rint rintf nearbyint lrint lround llrint llround fmod fmodf remainder fma fmaf fmax fmin
		fdim copysign copysignf nextafter frexp ldexp scalbn modf ilogb logb erf erfc tgamma lgamma j0 j1 y0 y1
		creal cimag cabs carg conj getenv secure_getenv gmtime_r timegm`},
}

// libraries are the file names of the C library's modules, with which the tables' names mean what they say.
const libraries = `libc.so* libc-2.*.so libm.so* libm-2.*.so libmvec.so* libpthread.so* libpthread-2.*.so libdl.so*
	libdl-2.*.so librt.so* librt-2.*.so ld-linux*.so* ld-2.*.so ld-musl-*.so* libc.musl-*.so* [[]vdso[]]`

// withoutGIL are functions of Python that take the interpreter's lock themselves, or need it not.
const withoutGIL = `PyGILState_Ensure PyGILState_Release PyGILState_Check PyGILState_GetThisThreadState
	Py_AddPendingCall Py_IsInitialized Py_IsFinalizing _Py_IsFinalizing Py_GetVersion Py_GetBuildInfo Py_GetPlatform
	Py_GetCopyright Py_GetCompiler _Py_svnversion _Py_gitversion _Py_gitidentifier PyMem_RawMalloc PyMem_RawCalloc PyMem_RawRealloc PyMem_RawFree
	_PyMem_RawStrdup _PyMem_RawWcsdup PyEval_RestoreThread PyEval_AcquireThread PyEval_AcquireLock PyEval_ReleaseLock
	PyErr_SetInterrupt PyErr_SetInterruptEx _PyThreadState_UncheckedGet PyThreadState_GetUnchecked PyThread_* PyOS_mystr*
	PyOS_vsnprintf PyOS_snprintf Py_DecodeLocale Py_EncodeLocale PyHash_GetFuncDef
	_PyMem_RawMalloc`

// readsOnly are those of them that only look: they need nothing.
const readsOnly = `PyGILState_Check PyGILState_GetThisThreadState Py_IsInitialized Py_IsFinalizing _Py_IsFinalizing
	Py_GetPlatform Py_GetCopyright Py_GetCompiler _PyThreadState_UncheckedGet PyThreadState_GetUnchecked
	PyThread_get_thread_ident PyErr_SetInterrupt`

// outermost are the functions that nothing calls: where programs and threads begin.
const outermost = `_start _start_c __libc_start_main __libc_start_call_main libc_start_main_stage2 generic_start_main
	start_thread start clone clone3 __clone __clone3 thread_start _dl_start_user runtime.goexit runtime.mstart runtime.rt0_go`

// evaluators are the functions that execute Python's code: inside one of them and in nothing that it has called, the
// interpreter's structures are whole.
const evaluators = `_PyEval_EvalFrameDefault _TAIL_CALL_*`

// patterns matches names against a list of them, in which * stands for any text.
type patterns struct {
	exact map[string]bool
	globs []string
}

func parsePatterns(text string) patterns {
	p := patterns{exact: make(map[string]bool)}
	for _, f := range strings.Fields(text) {
		if strings.ContainsAny(f, "*[") {
			p.globs = append(p.globs, f)
		} else {
			p.exact[f] = true
		}
	}
	return p
}

func (p patterns) match(name string) bool {
	if p.exact[name] {
		return true
	}
	for _, g := range p.globs {
		if ok, err := path.Match(g, name); err == nil && ok {
			return true
		}
	}
	return false
}

// plainName is a function's name as the tables have it: without version, without parameters, without what compilers
// add to the names of parts and copies of functions.
func plainName(name string) string {
	if i := strings.IndexByte(name, '@'); i > 0 {
		name = name[:i]
	}
	if !strings.HasPrefix(name, "(anonymous") {
		if i := strings.IndexByte(name, '('); i > 0 {
			name = name[:i]
		}
	}
	if i := strings.IndexByte(name, '.'); i > 0 {
		name = name[:i]
	}
	name = strings.TrimPrefix(name, "__GI_")
	return strings.NewReplacer(" ", "_", "/", "_").Replace(name)
}
