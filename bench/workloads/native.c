/* What extensions do with malloc, for the workloads that are called through ctypes: builds, looks up, frees. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* ---- a table of words, each an allocated node with an allocated string ---- */

struct word {
	struct word *next;
	char *text;
	uint64_t count;
};

enum { BUCKETS = 1 << 10 };

static uint64_t hash(const char *text, size_t length)
{
	uint64_t h = 0xcbf29ce484222325ull;

	while (length--)
		h = (h ^ (unsigned char)*text++) * 0x100000001b3ull;
	return h;
}

static void count_word(struct word **table, const char *text, size_t length)
{
	struct word **at = &table[hash(text, length) % BUCKETS];

	for (; *at; at = &(*at)->next)
		if (!strncmp((*at)->text, text, length) && !(*at)->text[length]) {
			(*at)->count++;
			return;
		}
	*at = calloc(1, sizeof **at);
	(*at)->text = malloc(length + 1);
	memcpy((*at)->text, text, length);
	(*at)->text[length] = 0;
	(*at)->count = 1;
}

/* Counts the words of a text in a table that is made for it and thrown away. */
uint64_t count_words(const char *text)
{
	struct word **table = calloc(BUCKETS, sizeof *table);
	uint64_t sum = 0;

	while (*text) {
		size_t length = strcspn(text, " ");
		if (length)
			count_word(table, text, length);
		text += length + (text[length] != 0);
	}
	for (int i = 0; i < BUCKETS; i++)
		for (struct word *w = table[i], *next; w; w = next) {
			next = w->next;
			sum = sum * 31 + w->count;
			free(w->text);
			free(w);
		}
	free(table);
	return sum;
}

/* ---- binary trees: nothing but malloc and free ---- */

struct tree {
	struct tree *left, *right;
	uint64_t key;
};

static struct tree *grow(unsigned depth, uint64_t key)
{
	struct tree *t = malloc(sizeof *t);

	t->key = key;
	t->left = depth ? grow(depth - 1, 2 * key) : NULL;
	t->right = depth ? grow(depth - 1, 2 * key + 1) : NULL;
	return t;
}

static uint64_t fell(struct tree *t)
{
	uint64_t sum;

	if (!t)
		return 0;
	sum = t->key + fell(t->left) * 3 + fell(t->right) * 5;
	free(t);
	return sum;
}

uint64_t trees(unsigned depth, uint64_t count)
{
	uint64_t sum = 0;

	while (count--)
		sum += fell(grow(depth, 1 + count));
	return sum;
}

/* ---- buffers that grow by realloc ---- */

uint64_t buffers(uint64_t count, uint64_t length)
{
	uint64_t sum = 0;

	while (count--) {
		size_t used = 0, room = 16;
		unsigned char *buffer = malloc(room);
		for (uint64_t i = 0; i < length; i++) {
			if (used == room)
				buffer = realloc(buffer, room *= 2);
			buffer[used++] = (unsigned char)(i * 7 + count);
		}
		buffer = realloc(buffer, used);
		for (size_t i = 0; i < used; i++)
			sum = sum * 3 + buffer[i];
		free(buffer);
	}
	return sum;
}
