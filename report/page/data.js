// The data: a tree of calls and the blocks at each call by label, what of it is looked at, and its sums.

async function load() {
  if (typeof DecompressionStream === 'undefined') {
    throw new Error('this browser is too old: it cannot unpack the data (DecompressionStream)');
  }
  const text = atob($('data').textContent.trim());
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const plain = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'));
  return new Response(plain).json();
}

// trie turns nodes in preorder into links. Node 0 is the root; what is below node i are the nodes up to end[i].
function trie(nodes) {
  const n = nodes.up.length + 1;
  const parent = new Int32Array(n).fill(-1), first = new Int32Array(n).fill(-1), next = new Int32Array(n).fill(-1);
  const frame = new Int32Array(n).fill(-1), end = new Int32Array(n).fill(0);
  for (let i = 1, p = 0; i < n; i++) {
    p = i - 1;
    for (let up = nodes.up[i - 1]; up > 0; up--) p = parent[p];
    parent[i] = p;
    frame[i] = nodes.frame[i - 1];
  }
  for (let i = n - 1; i >= 0; i--) {
    end[i] = Math.max(end[i], i + 1);
    if (i === 0) break;
    end[parent[i]] = Math.max(end[parent[i]], end[i]);
    next[i] = first[parent[i]];
    first[parent[i]] = i;
  }
  return {n, parent, first, next, frame, end};
}

// unpackRecords returns the records as columns; those of node i are first[i] up to first[i+1].
function unpackRecords(records, nodes) {
  const n = records.node.length, node = new Int32Array(n), first = new Int32Array(nodes + 1);
  for (let i = 0, at = -1; i < n; i++) {
    at += records.node[i];
    node[i] = at + 1; // the root comes before the nodes of the file
  }
  for (let i = 0, r = 0; i <= nodes; i++) {
    while (r < n && node[r] < i) r++;
    first[i] = r;
  }
  const labels = {
    type: Int32Array.from(records.type), thread: Int32Array.from(records.thread),
    domain: Int32Array.from(records.domain), process: Int32Array.from(records.process || []),
    age: Int32Array.from(records.age),
  };
  const columns = list => list.map(column => Float64Array.from(column));
  return {n, node, first, ...labels, now: columns(records.values), old: columns(records.old)};
}

let data;
try {
  data = await load();
} catch (e) {
  $('note').textContent = 'The page cannot be shown: ' + e.message;
  $('note').hidden = false;
  return;
}
const T = trie(data.nodes);
const R = unpackRecords(data.records, T.n);
const frames = data.frames;
const text = i => data.strings[i];

// ---- state: what is looked at, and how

const STATES = {inuse: 'Live', alloc: 'Allocated', peak: 'Peak', temporary: 'Temporary'};
const UNITS = {space: 'Bytes', objects: 'Blocks'};
const has = name => data.metrics.includes(name);
const states = Object.keys(STATES).filter(s => has(s + '_space') || has(s + '_objects'));
const start = data.start;
const DIMENSIONS = ['type', 'process', 'thread', 'domain', 'age'].filter(d => R[d].length > 0);
const S = {
  view: data.views[0], state: start.state, unit: start.unit, by: start.by, inverted: start.invert, query: '',
  colour: data.diff ? 'change' : 'origin', width: 'change',
  only: {}, // for each dimension, the only label that counts
  group: 'line', sort: null, down: true, // of the table
};

const metricOf = (state, unit) => data.metrics.indexOf(state + '_' + unit);
// unitNow is the unit of what is shown: temporary blocks are counted only.
const unitNow = () => metricOf(S.state, S.unit) < 0 && metricOf(S.state, 'objects') >= 0 ? 'objects' : S.unit;
const metric = () => metricOf(S.state, unitNow());
const otherMetric = () => metricOf(S.state, unitNow() === 'space' ? 'objects' : 'space');
const amount = (v, unit = unitNow()) => amountIn(v, unit);
const groupOf = f => S.by === 'line' ? f : frames.function[f];
const label = f => text(frames.func[f]) || '[unknown]';
function place(f, lines = S.by === 'line') {
  const file = text(frames.file[f]);
  return file && lines && frames.line[f] > 0 ? file + ':' + frames.line[f] : file;
}

// labelName is what a label is called: types and threads by their names, ages by their lower bounds.
function labelName(dimension, v) {
  if (dimension === 'age') return v < 0 ? 'age not known' : ageName(v);
  const t = text(v);
  if (t !== '' && t !== '-') return t;
  return dimension + ' not known';
}
const AGE_ENDS = new Map(data.about.ages);
function ageName(s) {
  const end = AGE_ENDS.get(s);
  if (s === 0 && end > 0) return 'less than ' + duration(end);
  return end > 0 ? duration(s) + ' to ' + duration(end) : duration(s) + ' or more';
}

// ---- sums of what counts, made when they are asked for and until the restriction changes

let passes = null; // for each record whether it counts; null where all do
const sums = new Map();

function restrict(only) {
  S.only = only;
  sums.clear();
  const dimensions = Object.keys(only);
  passes = null;
  if (dimensions.length === 0) return;
  passes = new Uint8Array(R.n).fill(1);
  for (const d of dimensions) for (let i = 0; i < R.n; i++) if (R[d][i] !== only[d]) passes[i] = 0;
}
const restricted = () => passes !== null;

function kept(key, make) {
  let v = sums.get(key);
  if (v === undefined) sums.set(key, v = make());
  return v;
}
const nothing = new Float64Array(T.n);

// ownOf returns for each node what was allocated right there: now, or in the older snapshot.
function ownOf(m, when = 'now') {
  if (m < 0 || !R[when][m]) return nothing;
  return kept('own ' + m + when, () => {
    const own = new Float64Array(T.n), values = R[when][m];
    for (let i = 0; i < R.n; i++) if (passes === null || passes[i]) own[R.node[i]] += values[i];
    return own;
  });
}
function sumUp(own) {
  const sum = own.slice();
  for (let i = T.n - 1; i > 0; i--) sum[T.parent[i]] += sum[i];
  return sum;
}
const totalOf = (m, when = 'now') => m < 0 ? nothing : kept('total ' + m + when, () => sumUp(ownOf(m, when)));

// widthOwn and widthTotal are what widths stand for, in a comparison what changed or either side. What changed is the
// sum of increases and decreases of stacks, so that what moves from one stack to another does not vanish.
function widthOwn() {
  const m = metric();
  if (!data.diff || S.width === 'now') return ownOf(m);
  if (S.width === 'old') return ownOf(m, 'old');
  return kept('own change ' + m, () => {
    const now = ownOf(m), old = ownOf(m, 'old'), change = new Float64Array(T.n);
    for (let i = 0; i < T.n; i++) change[i] = Math.abs(now[i] - old[i]);
    return change;
  });
}
function widthTotal() {
  const m = metric();
  if (!data.diff || S.width === 'now') return totalOf(m);
  if (S.width === 'old') return totalOf(m, 'old');
  return kept('total change ' + m, () => sumUp(widthOwn()));
}

// muchOf is what a row of sums shows: how much, in a comparison how much more or less. shareOf is that as a part.
const muchOf = r => data.diff ? signed(r.now - r.old, unitNow()) : amount(r.now);
const shareOf = (r, whole) => data.diff ? growth(r.now, r.old) : percent(r.now, whole);

// byLabel sums records by a label, largest first (in a comparison: what changed most). Ranges are pairs of nodes.
function byLabel(dimension, ranges = [[0, T.n]], filter = null) {
  const m = metric();
  if (m < 0) return [];
  const rows = new Map(), blocksOf = otherMetric();
  for (const [from, to] of ranges) {
    for (let i = R.first[from]; i < R.first[to]; i++) {
      if (passes !== null && !passes[i] || filter !== null && !filter(i)) continue;
      const key = R[dimension][i];
      let row = rows.get(key);
      if (!row) rows.set(key, row = {key, now: 0, old: 0, other: 0, otherOld: 0});
      row.now += R.now[m][i];
      if (blocksOf >= 0) row.other += R.now[blocksOf][i];
      if (data.diff) {
        row.old += R.old[m][i];
        if (blocksOf >= 0) row.otherOld += R.old[blocksOf][i];
      }
    }
  }
  const weight = r => data.diff ? Math.abs(r.now - r.old) : r.now;
  return [...rows.values()].filter(r => r.now > 0 || r.old > 0)
    .sort((a, b) => weight(b) - weight(a) || b.now - a.now || a.key - b.key);
}

