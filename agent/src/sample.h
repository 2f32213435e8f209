/*
 * sample.h: Poisson sampling by bytes. Each byte allocated is a sample point with probability 1/sample_bytes, so a
 * block of s bytes is recorded with probability 1 - exp(-s / sample_bytes), and stands for the inverse of that.
 * Integers only: the caller's floating-point state is not ours.
 */

/* A block of no bytes takes part as one of one byte. */
INLINE u64 sampled_bytes(u64 size) { return size + !size; }

static u64 random_next(struct ht_thread *t)
{
	/* splitmix64 */
	u64 z = t->random += 0x9e3779b97f4a7c15ull;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

/* -log2(v / 2^64), v > 0, in 2^-32 units. */
static u64 minus_log2(u64 v)
{
	u64 whole = (u64)__builtin_clzll(v);
	u64 m = v << whole; /* [2^63, 2^64): m / 2^63 in [1, 2) */
	u64 fraction = 0;   /* log2(m / 2^63): square and look whether it passes 2 */
	for (u32 bit = 0; bit < 32; bit++) {
		u64 square = (u64)((unsigned __int128)m * m >> 64); /* [2^62, 2^64) */
		fraction <<= 1;
		if (square >> 63) {
			fraction |= 1;
			m = square;
		} else {
			m = square << 1;
		}
	}
	return ((whole + 1) << 32) - fraction;
}

enum { LN2_32 = 0xb17217f7 }; /* ln 2 in 2^-32 units */

/* Bytes before the next sample point: the whole part of an exponential with mean sample_bytes. */
static s64 sample_distance(struct ht_thread *t)
{
	u64 v = random_next(t) | 1;
	u64 ln = (u64)((unsigned __int128)minus_log2(v) * (u64)LN2_32 >> 32); /* -ln(u), 2^-32 units */
	u64 d = (u64)((unsigned __int128)ln * CFG->sample_bytes >> 32);
	return (s64)(d < 1ull << 62 ? d : 1ull << 62);
}

/* 1 / (1 - exp(-size / sample_bytes)) in 2^-HT_SCALE_BITS units. */
static u64 sample_weight(u64 size)
{
	u64 mean = CFG->sample_bytes;
	size = sampled_bytes(size);
	if (size / 16 >= mean)
		return 1 << HT_SCALE_BITS;
	for (; size >> 32; size >>= 1)
		mean >>= 1;
	/* x in 2^-32 units; 1 - exp(-x) by halving: e(2x) = e(x) * (2 - e(x)) with e(x) = 1 - exp(-x). */
	u64 x = (size << 32) / mean;
	u32 halvings = 0;
	while (x >> 26) {
		x >>= 1;
		halvings++;
	}
	/* e(x) = x - x^2/2 + x^3/6, x < 2^-6 */
	u64 x2 = x * x >> 32, x3 = x2 * x >> 32;
	u64 e = x - x2 / 2 + x3 / 6;
	for (; halvings; halvings--)
		e = (u64)((unsigned __int128)e * ((2ull << 32) - e) >> 32);
	return e ? ((u64)1 << (32 + HT_SCALE_BITS)) / e : CFG->sample_bytes << HT_SCALE_BITS;
}
