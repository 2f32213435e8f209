/*
 * code.h: the code table. At first sight of a code object its names and line table are copied, so that nothing needs
 * the target later.
 *
 * Two ways lead to a record: by address, for the walk, and by content, so that a program which makes the same code
 * again and again fills one record only. Both hash tables are replaced by larger ones as they fill; the old ones stay
 * where they are, for readers that still look at them.
 *
 * Lock: writers only. Who does not get it goes without a name for once.
 */

enum { CODE_SLOTS_LOG2 = 9, STR_MAX = 2048, LINES_MAX = 1 << 20 };

static int code_lock(void) { return spin_lock(&T->code_lock); }
static void code_unlock(void) { spin_unlock(&T->code_lock); }

INLINE struct ht_code *code_record(u32 number) { return (struct ht_code *)at(T->codes.offset) + number; }

/* Objects lie 16 bytes apart and near each other: keep their slots near each other too. */
INLINE u64 code_hash(u64 address) { return address >> 6 ^ address >> 20; }

INLINE u32 code_find(u64 address)
{
	u64 table = LOAD_ACQUIRE(&T->code_slots);
	if (!table)
		return 0;
	struct ht_code_slot *slots = (struct ht_code_slot *)at(table >> 8);
	u64 mask = (1ull << (table & 0xff)) - 1;
	for (u64 i = code_hash(address), n = 0; n <= mask; i++, n++) {
		u64 is = LOAD_ACQUIRE(&slots[i & mask].address);
		if (is == address) {
			/* The table may have been cleared and filled again meanwhile: look at the address once more, later. */
			u32 code = LOAD_ACQUIRE(&slots[i & mask].code);
			return LOAD(&slots[i & mask].address) == address ? code : 0;
		}
		if (!is)
			return 0;
	}
	return 0;
}

/* Under the lock. Returns 1 when it took a slot that was free, 0 when a retired one. */
static u64 slot_put(struct ht_code_slot *slots, u64 mask, u64 address, u32 code)
{
	u64 i = code_hash(address), was;
	while ((was = LOAD(&slots[i & mask].address)) > 1)
		i++;
	STORE(&slots[i & mask].code, code);
	STORE_RELEASE(&slots[i & mask].address, address);
	return was == 0;
}

/* Under the lock: room for one more address. */
static int slots_reserve(void)
{
	u64 table = T->code_slots, log2 = table & 0xff, used = T->code_slots_used;
	if (table && !LOAD(&T->code_flush) && used * 2 < 1ull << log2)
		return 1;
	/* Who wants a flush from here on, without the lock, may be too late for this one and gets another. */
	u32 flush = __atomic_exchange_n(&T->code_flush, 0, __ATOMIC_ACQUIRE);
	struct ht_code_slot *old = (struct ht_code_slot *)at(table >> 8);
	u64 live = 0;
	if (table && !flush)
		for (u64 i = 0; i < 1ull << log2; i++)
			live += old[i].address > 1;
	u64 fresh_log2 = table ? log2 : CODE_SLOTS_LOG2;
	if (live * 4 >= 1ull << fresh_log2)
		fresh_log2++;
	u64 fresh = 0;
	if (fresh_log2 == log2) /* retired entries fill it: readers are in it, so take turns with a spare */
		fresh = T->code_slots_spare;
	if (fresh)
		memset(at(fresh), 0, sizeof *old << fresh_log2);
	else
		fresh = take_bytes(sizeof *old << fresh_log2);
	if (!fresh) {
		if (flush)
			STORE(&T->code_flush, 1);
		return 0;
	}
	T->code_slots_spare = fresh_log2 == log2 ? table >> 8 : 0;
	struct ht_code_slot *slots = (struct ht_code_slot *)at(fresh);
	u64 put = 0;
	if (table && !flush)
		for (u64 i = 0; i < 1ull << log2; i++)
			if (old[i].address > 1)
				put += slot_put(slots, (1ull << fresh_log2) - 1, old[i].address, old[i].code);
	T->code_slots_used = put;
	STORE_RELEASE(&T->code_slots, fresh << 8 | fresh_log2);
	return 1;
}

static u64 mix(u64 h, u64 v)
{
	h = (h ^ v) * 0x9e3779b97f4a7c15ull;
	return h ^ h >> 29;
}

static u64 mix_bytes(u64 h, const u8 *p, u64 n)
{
	for (; n >= 8; p += 8, n -= 8) {
		u64 v;
		__builtin_memcpy(&v, p, 8);
		h = mix(h, v);
	}
	u64 v = n;
	for (; n; n--)
		v = v << 8 | *p++;
	return mix(h, v);
}

/* The bytes of a str or bytes object, in place. */
struct text {
	const u8 *data;
	u64 size;
	struct ht_blob blob; /* offset not yet set */
};

static struct text text_of_str(u64 object)
{
	struct text t = {0};
	if (!object)
		return t;
	u32 state = peek32(object + CFG->str_state);
	u64 length = peek64(object + CFG->str_length);
	u32 kind = state >> CFG->str_kind_shift & 7;
	u64 data;
	if (!(state >> CFG->str_compact_bit & 1))
		data = peek64(object + CFG->str_pointer_data);
	else if (state >> CFG->str_ascii_bit & 1)
		data = object + CFG->str_ascii_data;
	else
		data = object + CFG->str_compact_data;
	if (!data || (kind != 1 && kind != 2 && kind != 4))
		return t;
	t.blob.cut = length > STR_MAX;
	t.blob.length = t.blob.cut ? STR_MAX : (u32)length;
	t.blob.kind = (u8)kind;
	t.data = (const u8 *)data;
	t.size = (u64)t.blob.length * kind;
	return t;
}

static struct text text_of_bytes(u64 object)
{
	struct text t = {0};
	if (!object)
		return t;
	u64 length = peek64(object + CFG->bytes_length);
	t.blob.cut = length > LINES_MAX;
	t.blob.length = t.blob.cut ? LINES_MAX : (u32)length;
	t.blob.kind = 1;
	t.data = (const u8 *)object + CFG->bytes_data;
	t.size = t.blob.length;
	return t;
}

static int text_same(const struct text *t, const struct ht_blob *b)
{
	return t->blob.length == b->length && t->blob.kind == b->kind && t->blob.cut == b->cut &&
	       (!t->size || same(t->data, at(b->offset), t->size));
}

static struct ht_blob text_keep(const struct text *t)
{
	struct ht_blob b = t->blob;
	if (t->size) {
		b.offset = take_bytes(t->size);
		if (b.offset)
			memcpy(at(b.offset), t->data, t->size);
		else
			b.kind = 0;
	}
	return b;
}

/* Under the lock: the buckets by content, made larger as records come. */
static u32 *buckets_reserve(u64 hash, u64 records)
{
	u64 table = T->code_buckets, log2 = table & 0xff;
	if (!table || records > 2ull << log2) {
		u64 fresh_log2 = table ? log2 + 2 : CODE_SLOTS_LOG2;
		u64 fresh = take_bytes(sizeof(u32) << fresh_log2);
		if (!fresh && !table)
			return 0;
		if (fresh) {
			u32 *to = (u32 *)at(fresh);
			for (u64 i = HT_CODE_FIRST; i < LOAD(&T->codes.next) && i < T->codes.entries; i++) {
				struct ht_code *c = code_record((u32)i);
				u32 *head = &to[c->hash & ((1ull << fresh_log2) - 1)];
				c->next = *head;
				*head = (u32)i;
			}
			T->code_buckets = table = fresh << 8 | fresh_log2;
			log2 = fresh_log2;
		}
	}
	return (u32 *)at(table >> 8) + (hash & ((1ull << log2) - 1));
}

/* Under the lock: the record of this content, made if there is none. */
static u32 code_intern(u64 object)
{
	struct text file = text_of_str(peek64(object + CFG->code_file));
	struct text name = text_of_str(peek64(object + CFG->code_name));
	struct text qualname = {0};
	if (CFG->code_qualname >= 0)
		qualname = text_of_str(peek64(object + (u32)CFG->code_qualname));
	struct text lines = text_of_bytes(peek64(object + CFG->code_lines));
	s32 first_line = (s32)peek32(object + CFG->code_first_line);
	s32 first_traceable = 0;
	if (CFG->code_first_traceable >= 0)
		first_traceable = (s32)peek32(object + (u32)CFG->code_first_traceable) * 2;

	u64 h = mix((u32)first_line, (u32)first_traceable);
	h = mix_bytes(h, file.data, file.size);
	h = mix_bytes(h, name.data, name.size);
	h = mix_bytes(h, qualname.data, qualname.size);
	h = mix_bytes(h, lines.data, lines.size);

	u32 *bucket = buckets_reserve(h, LOAD(&T->codes.next));
	if (!bucket)
		return HT_CODE_UNKNOWN;
	for (u32 i = *bucket; i; i = code_record(i)->next) {
		struct ht_code *c = code_record(i);
		if (c->hash == h && c->first_line == first_line && c->first_traceable == first_traceable &&
		    text_same(&file, &c->file) && text_same(&name, &c->name) && text_same(&qualname, &c->qualname) &&
		    text_same(&lines, &c->lines))
			return i;
	}
	u32 number = (u32)take(&T->codes, 1);
	if (!number)
		return HT_CODE_UNKNOWN;
	struct ht_code *c = code_record(number);
	c->hash = h;
	c->first_line = first_line;
	c->first_traceable = first_traceable;
	c->file = text_keep(&file);
	c->name = text_keep(&name);
	c->qualname = text_keep(&qualname);
	c->lines = text_keep(&lines);
	c->next = *bucket;
	*bucket = number;
	return number;
}

COLD u32 code_add(u64 object)
{
	if (!code_lock())
		return HT_CODE_UNKNOWN;
	u32 number = LOAD(&T->code_flush) ? 0 : code_find(object); /* another thread may have been first */
	if (!number) {
		/* Mark the block before the address is known, so that its free cannot be missed. */
		int block = !(object & ((1u << CFG->granule_log2) - 1)); /* else it is static and never freed */
		u64 *word = block ? live_word(object) : 0;
		number = code_intern(object);
		if ((word || !block) && slots_reserve()) {
			if (word && !(__atomic_fetch_or(word, 1ull << HT_CODE_BIT, __ATOMIC_RELAXED) >> HT_CODE_BIT & 1) &&
			    CFG->sample_bytes)
				filter_add(object);
			u64 table = T->code_slots;
			struct ht_code_slot *slots = (struct ht_code_slot *)at(table >> 8);
			T->code_slots_used += slot_put(slots, (1ull << (table & 0xff)) - 1, object, number);
		}
	}
	code_unlock();
	return number;
}

/* The number of a code object that is on the stack. */
INLINE u32 code_number(u64 object)
{
	u32 number = LOAD(&T->code_flush) ? 0 : code_find(object);
	return likely(number) ? number : code_add(object);
}

/* A known code object is being freed: its address means nothing any more. */
COLD void code_retire(u64 address)
{
	__atomic_fetch_add(&T->code_generation, 1, __ATOMIC_RELAXED);
	if (!code_lock()) {
		STORE(&T->code_flush, 1);
		return;
	}
	u64 table = T->code_slots;
	struct ht_code_slot *slots = (struct ht_code_slot *)at(table >> 8);
	u64 mask = (1ull << (table & 0xff)) - 1;
	for (u64 i = code_hash(address), n = 0; table && n <= mask; i++, n++) {
		u64 is = LOAD(&slots[i & mask].address);
		if (!is)
			break;
		if (is == address) {
			STORE_RELEASE(&slots[i & mask].address, 1);
			break;
		}
	}
	code_unlock();
}
