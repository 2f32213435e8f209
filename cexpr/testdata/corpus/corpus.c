/* What the expressions of the corpus talk about. */
#include <stddef.h>
#include <stdint.h>
#include <wchar.h>
#include <uchar.h>

enum color { RED, GREEN, BLUE = 7 };
enum flags { F_A = 1, F_B = 2, F_C = 4 };
enum holes { H_ONE = 1, H_MANY = 0x30, H_TOP = 0x100 };
enum negative { N_MINUS = -1, N_ZERO, N_PLUS };
typedef enum { ANON_X, ANON_Y } anon_enum;

struct point { int x, y; };
struct pair { struct point a, b; };
struct bits { unsigned a : 3; int b : 5; unsigned long c : 40; _Bool d : 1; enum color e : 4; };
union number { int i; float f; unsigned char bytes[4]; };
struct node { struct node *next; const char *name; int (*act)(int); double weight; void *opaque; };
struct inner { int plain; struct { int in_a; char in_c; }; union { short u_s; long u_l; }; };
struct empty { };
struct flexible { int n; char tail[]; };
struct strings { char fixed[8]; unsigned char bytes[6]; signed char sc[4]; char *pointer; char grid[2][4]; };
struct big { long a[6]; };
struct mixed { char c; short s; int i; long l; float f; double d; long double ld; _Bool b; };
typedef struct { int q, r; } result_t;
typedef int (*binary_op)(int, int);
typedef unsigned int uint_alias;
typedef uint_alias uint_alias2;
typedef const char *text_t;
typedef float v4f __attribute__((vector_size(16)));
typedef int v4i __attribute__((vector_size(16)));
typedef unsigned char v16u __attribute__((vector_size(16)));
typedef double v2d __attribute__((vector_size(16)));
typedef float v2f __attribute__((vector_size(8)));

char c_a = 'a', c_zero = 0, c_nl = '\n', c_high = -56, c_quote = '\'', c_dquote = '"', c_back = '\\', c_esc = 27, c_bell = 7;
signed char sc = -3;
unsigned char uc = 200;
short sh = -1234;
unsigned short ush = 65535;
int i = 42, neg = -42, imin = -2147483647 - 1, zero = 0;
unsigned u = 4294967295u;
long l = -1234567890123L, lmin = -9223372036854775807L - 1;
unsigned long ul = 18446744073709551615ul;
long long ll = 1;
unsigned long long ull = 1ull << 63;
__int128 i128 = -5;
unsigned __int128 u128 = ((unsigned __int128)1 << 100) + 7;
_Bool yes = 1, no = 0;
float f = 1.5f, f_third = 1.0f / 3, f_big = 1e30f, f_inf = __builtin_inff(), f_nan;
double d = 3.14159265358979, d_int = 100, d_small = 1e-300, d_neg = -0.0, d_inf = -__builtin_inf(), d_nan, d_tenth = 0.1, d_big = 1e22,
	d_e16 = 1e16, d_e17 = 123456789012345678.0, d_den = 4.9406564584124654e-324;
long double ld = 1.1L, ld_third = 1.0L / 3, ld_big = 1e4000L, ld_int = 7, ld_inf = __builtin_infl();
_Complex double cd = 1.0 + 2.0i;
_Complex float cf = -1.5f + 0.25fi;
wchar_t wc = L'w', wc_high = 0x263a;
char16_t c16 = u'x';
char32_t c32 = U'\x1F600';
wchar_t wide[] = L"wide \x263a";
char16_t wide16[] = u"sixteen";
char32_t wide32[] = U"thirty-two";
enum color color = GREEN, color_bad = 5;
enum flags flags = F_A | F_C, flags_none = 0, flags_unknown = 9, flags_only_unknown = 16;
enum holes holes = H_ONE | H_TOP, holes_part = 0x10, holes_many = 0x30, holes_mix = 0x33;
enum negative negative = N_MINUS, negative_bad = 12;
anon_enum anonymous = ANON_Y;
struct point pt = {1, -2}, points[3] = {{1, 2}, {3, 4}, {5, 6}}, same_points[12];
struct pair pr = {{1, 2}, {3, 4}};
struct bits bits = {5, -7, 0x123456789a, 1, BLUE};
union number num = {.f = 1.0f};
struct inner inner = {1, {2, 'c'}, {.u_l = 70000}};
struct empty empty;
struct flexible flexible = {3, "abc"};
char buf10[10] = "hi", full[4] = {'f', 'u', 'l', 'l'}, empty_text[4], text200[250], text_runs[] = "aaaaaaaaaaaaaaaaaaaabcdddddddddddddddde",
	controls[] = "a\tb\nc\001d\x7f" "e\377f\"g'h\\", octal_digits[] = "\0011\0019\001x", two_runs[] = "xxxxxxxxxxyyyyyyyyyyyyzz",
	nul_in[8] = "ab\0cd", eleven[] = "zzzzzzzzzzz", ten[] = "zzzzzzzzzz", nine[] = "zzzzzzzzz", utf8[] = "h\303\251llo";
unsigned char ubytes[5] = {1, 2, 'a', 200, 0};
signed char sbytes[3] = {-1, 'b', 0};
const char *str = "hello, world", *nullstr = 0, *longstr = text200, *badstr = (const char *)16;
unsigned char *ustr = (unsigned char *)"unsigned";
signed char *sstr = (signed char *)"signed";
void *vp = &i, *vnull = 0, *vodd = (void *)0x1234;
int arr[5] = {1, 2, 3, 4, 5}, zeros[20], runs[30] = {1, 1, [5] = 2, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 4}, long_arr[300], nine_runs[] = {7, 7, 7, 7, 7, 7, 7, 7, 7, 1},
	matrix[2][3] = {{1, 2, 3}, {4, 5, 6}}, cube[2][2][2] = {{{1, 2}, {3, 4}}, {{5, 6}, {7, 8}}}, same_rows[12][2], big_matrix[30][10];
double doubles[3] = {1, 2.5, -3e100};
float floats[2] = {0.5f, 0.1f};
_Bool bools[3] = {1, 0, 1};
enum color colors[3] = {RED, GREEN, BLUE};
const char *words[] = {"one", "two", 0};
int *ip = &i, *ip_arr = &arr[2], **ipp = &ip, *ip_null = 0;
const volatile int cvi = 9;
const int *cip = &i;
int *const icp = &i;
char *const *ccp = (char *const *)words;
struct point *pp = &pt, **ppp = &pp;
int (*parr)[5] = &arr;
int (*pmat)[3] = matrix;
int *parrs[2] = {&i, &neg};
uint_alias2 aliased = 12;
size_t sz = 99;
uint8_t u8 = 65, u8s[4] = {65, 66, 67, 0};
int8_t i8 = -1;
text_t text = "typedef'd";
result_t res = {4, 2};
struct mixed mixed = {'m', -1, 2, 3, 0.5f, 0.25, 1.5L, 1};
struct strings strings = {"fixed", {1, 2, 3}, {'a', 'b', 'c', 0}, "pointed", {"abc", "de"}};
v4f vec4f = {1, 2, 3, 4.5f};
v4i vec4i = {1, -2, 3, 4};
v16u vec16u = {1, 2, 3};
v2d vec2d = {0.5, -1};
v2f vec2f = {1, 2};
ptrdiff_t diff = -8;
static volatile int hidden = 77;

int add(int a, int b) { return a + b; }
int twice(int a) { return 2 * a; }
static int secret(int a) { return a + hidden; }
void nothing(void) { zero = 0; }
unsigned char give_uc(int a) { return a; }
signed char give_sc(int a) { return a; }
char give_c(int a) { return a; }
short give_s(int a) { return a; }
_Bool give_b(int a) { return a; }
float give_f(float a) { return a * 2; }
double give_d(double a, float b) { return a + b; }
long double give_ld(long double a, int b) { return a + b; }
struct point give_point(int x, int y) { return (struct point){x, y}; }
struct big give_big(struct big b, long k) { for (int n = 0; n < 6; n++) b.a[n] *= k; return b; }
struct mixed give_mixed(struct mixed m) { m.i++; m.ld *= 2; return m; }
int take_point(struct point p) { return p.x * 10 + p.y; }
int take_pointp(const struct point *p) { return p->x * 10 + p->y; }
enum color give_color(int n) { return n; }
_Complex double give_cd(_Complex double z) { return z * 2; }
v4f give_v(v4f a, v4f b) { return a + b; }
__int128 give_128(__int128 a) { return a + 1; }
const char *give_text(int n) { return words[n]; }
binary_op give_op(void) { return add; }
int sum(int n, ...)
{
	__builtin_va_list ap;
	int total = 0;
	__builtin_va_start(ap, n);
	while (n-- > 0)
		total += __builtin_va_arg(ap, int);
	__builtin_va_end(ap);
	return total;
}
double sumd(int n, ...)
{
	__builtin_va_list ap;
	double total = 0;
	__builtin_va_start(ap, n);
	while (n-- > 0)
		total += __builtin_va_arg(ap, double);
	__builtin_va_end(ap);
	return total;
}
int many(int a, int b, int c, int d, int e, int f, int g, int h, short i) { return a + 2 * b + 3 * c + 4 * d + 5 * e + 6 * f + 7 * g + 8 * h + 9 * i; }
double manyd(double a, double b, double c, double d, double e, double f, double g, double h, double i, float j)
{
	return a + b + c + d + e + f + g + h * 100 + i * 1000 + j * 10000;
}
size_t length(const char *s) { size_t n = 0; while (s[n]) n++; return n; }
char *fill(char *to, char c, int n) { for (int k = 0; k < n; k++) to[k] = c; to[n] = 0; return to; }
int old_style(a, b) int a; double b; { return a + (int)b; }
int apply(int (*op)(int), int n) { return op(n); }

struct node tail_node = {0, "tail", twice, 2.5, 0};
struct node head = {&tail_node, "head", 0, 1.25, &i};
int (*op1)(int) = twice, (*opnull)(int), (*opsecret)(int) = secret;
binary_op op2 = add;
int (*ops[2])(int, int) = {add, 0};
void (*vfn)(void) = nothing;
int (*(*fnfn)(void))(int, int) = give_op;

__attribute__((constructor)) void unused(void) { }
void corpus_fill(void)
{
	for (int n = 0; n < 249; n++)
		text200[n] = 'a' + n % 26;
	for (int n = 0; n < 300; n++)
		long_arr[n] = n;
	for (int n = 0; n < 300; n++)
		big_matrix[n / 10][n % 10] = n;
	union { unsigned u; float f; } fn = {0x7fc00001};
	union { unsigned long u; double d; } dn = {0xfff8000000001234};
	f_nan = fn.f;
	d_nan = dn.d;
}

/* A debugger places strings with it. */
void *malloc(size_t n)
{
	static char memory[1 << 16] __attribute__((aligned(16)));
	static size_t used;
	used += (n + 15) & ~15ul;
	return memory + used - ((n + 15) & ~15ul);
}
