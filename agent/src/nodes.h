/*
 * nodes.h: the trie of stacks. A thread owns the nodes below its root and the hash table that finds them by parent,
 * code and instruction, so that nothing here is guarded.
 */

INLINE struct ht_node *node_at(u32 number) { return (struct ht_node *)at(T->nodes.offset) + number; }

enum { NODE_BATCH = 64 };

/* A fresh node, zeroed, of the calling thread's share; 0 when the table is full. */
static u32 node_new(struct ht_thread *t)
{
	if (t->nodes_next == t->nodes_end) {
		u64 first = take(&T->nodes, NODE_BATCH);
		if (!first)
			return 0;
		t->nodes_next = first;
		t->nodes_end = first + NODE_BATCH;
	}
	return (u32)t->nodes_next++;
}

INLINE u32 node_hash(u32 parent, u32 code, s32 instr)
{
	u64 h = ((u64)parent << 32 | code) * 0x9e3779b97f4a7c15ull + (u32)instr * 0xd1342543de82ef95ull;
	return (u32)(h >> 32 ^ h >> 17);
}

enum { BUCKETS_FIRST = 64 };

COLD int buckets_grow(struct ht_thread *t)
{
	u32 fresh_mask = t->buckets ? t->bucket_mask * 4 + 3 : BUCKETS_FIRST - 1;
	u64 fresh = take_bytes(((u64)fresh_mask + 1) * sizeof(u32));
	if (!fresh)
		return 0;
	u32 *from = (u32 *)at(t->buckets), *to = (u32 *)at(fresh);
	for (u32 i = 0; t->buckets && i <= t->bucket_mask; i++)
		for (u32 n = from[i], next; n; n = next) {
			struct ht_node *node = node_at(n);
			next = node->next;
			u32 *head = &to[node_hash(node->parent, node->code, node->instr) & fresh_mask];
			node->next = *head;
			*head = n;
		}
	t->buckets = fresh;
	t->bucket_mask = fresh_mask;
	return 1;
}

COLD u32 node_add(struct ht_thread *t, u32 parent, u32 code, s32 instr)
{
	if (t->node_count >= t->bucket_mask && !buckets_grow(t) && !t->buckets)
		return parent;
	u32 n = node_new(t);
	if (!n)
		return parent; /* the tables are full: the caller's stack is the best that can be said */
	struct ht_node *node = node_at(n);
	u32 *head = (u32 *)at(t->buckets) + (node_hash(parent, code, instr) & t->bucket_mask);
	node->parent = parent;
	node->code = code;
	node->instr = instr;
	node->next = *head;
	*head = n;
	t->node_count++;
	return n;
}

INLINE u32 node_child(struct ht_thread *t, u32 parent, u32 code, s32 instr)
{
	if (likely(t->buckets)) {
		u32 n = ((u32 *)at(t->buckets))[node_hash(parent, code, instr) & t->bucket_mask];
		for (; n; n = node_at(n)->next) {
			struct ht_node *node = node_at(n);
			if (node->instr == instr && node->parent == parent && node->code == code)
				return n;
		}
	}
	return node_add(t, parent, code, instr);
}
