package symbolize_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// run runs a tool of the compiler's or of binutils'.
func run(t testing.TB, dir, tool string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), tool, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", tool, strings.Join(args, " "), err, out)
	}
}

// sources writes files into a new folder.
func sources(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// cSources are of a small library in C: static functions in a header, copies and parts of functions, one that has no
// debug information, a nested function, names that Rust's compiler would give.
func cSources() map[string]string {
	return map[string]string{
		"include/pool.h": `
#include <stdlib.h>
#include <string.h>
struct pool { char *at, *end; unsigned long count; };
static inline void *take(struct pool *p, unsigned long n) {
	if ((unsigned long)(p->end - p->at) < n)
		return NULL;
	void *r = p->at;
	p->at += n;
	p->count++;
	return r;
}
static inline __attribute__((always_inline)) char *copy(struct pool *p, const char *s) {
	unsigned long n = strlen(s) + 1;
	char *r = take(p, n);
	if (r)
		memcpy(r, s, n);
	return r;
}
`,
		"src/pool.c": `
#include "../include/pool.h"
extern int external(int (*)(void *, int), int);
static __attribute__((noinline)) int walk(struct pool *p, int depth, int step) {
	int sum = 0;
	for (int i = 0; i < depth; i++) {
		char *c = copy(p, "text");
		if (!c) {
			struct pool bigger = {malloc(p->count * 2), 0, 0};
			bigger.end = bigger.at + p->count * 2;
			*p = bigger;
			continue;
		}
		sum += c[i % 4] * step;
	}
	return sum;
}
int fill(struct pool *p, int n) { return walk(p, n, 3) + walk(p, n * 2, 3); }
static int __attribute__((noinline, cold)) fail(struct pool *p) { abort(); return p->count; }
int drain(struct pool *p, int n) {
	if (__builtin_expect(n < 0, 0))
		return fail(p);
	int total = 0;
	int one(void *v, int k) { total += k; return total + (v == p); }
	for (int i = 0; i < n; i++)
		total += external(one, i);
	return total;
}
void *rust(unsigned long n) __asm__("_RNvNtCs1234_7mycrate3foo3bar");
void *rust(unsigned long n) { return calloc(n, 2); }
void *older(unsigned long n) __asm__("_ZN5crate3vec4push17h0123456789abcdefE");
void *older(unsigned long n) { return calloc(n, 3); }
`,
		"src/other.c": `
#include "../include/pool.h"
int external(int (*f)(void *, int), int n) { return f(NULL, n) + f(NULL, n + 1); }
char *duplicate(struct pool *p, const char **all) {
	char *last = NULL;
	while (*all)
		last = copy(p, *all++);
	return last;
}
__asm__(".text\n.globl bare\n.type bare, @function\nbare:\n nop\n nop\n nop\n ret\n.size bare, .-bare\n");
`,
	}
}

// cxxSources are of a library in C++ whose inlined calls nest deeply.
func cxxSources() map[string]string {
	return map[string]string{
		"shop.cc": `
#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>
namespace shop {
namespace {
struct Hidden { int v; int twice() const { return v * 2; } };
__attribute__((noinline)) int secret(const Hidden &h) { return h.twice() + 1; }
}
template <class T> class Cache {
	std::map<std::string, std::vector<T>> all_;
public:
	__attribute__((noinline)) void add(const std::string &key, T v) { all_[key].push_back(std::move(v)); }
	T &find(const std::string &key, size_t i) { return all_.at(key).at(i); }
	template <class F> size_t count(F f) const {
		size_t n = 0;
		for (auto &[key, list] : all_)
			n += std::count_if(list.begin(), list.end(), f);
		return n;
	}
	~Cache() { all_.clear(); }
};
struct Order { std::string name; std::unique_ptr<int[]> lines; std::vector<double> prices; };
class Session {
	Cache<Order> orders_;
	std::vector<std::function<int(int)>> hooks_;
public:
	Session(int n);
	virtual ~Session();
	int operator()(int n);
};
Session::Session(int n) {
	for (int i = 0; i < n; i++) {
		Order o{"order " + std::to_string(i), std::make_unique<int[]>(i), {1.0, 2.0, double(i)}};
		orders_.add(o.name.substr(0, 3), std::move(o));
		hooks_.push_back([i, this](int k) { return k + i + int(hooks_.size()); });
	}
}
Session::~Session() { hooks_.clear(); }
int Session::operator()(int n) {
	int sum = 0;
	for (auto &h : hooks_)
		sum += h(n);
	std::sort(hooks_.begin(), hooks_.end(), [n](auto &a, auto &b) { return a(n) < b(n); });
	return sum + secret(Hidden{n}) + int(orders_.count([](const Order &o) { return o.prices.size() > 2; }));
}
}
extern "C" int entry(int n) { shop::Session s(n); return s(n); }
`,
	}
}
