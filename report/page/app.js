// The page: its views, switches, search, address, keys.

const VIEWS = {
  overview: {title: 'Overview', show: showOverview, hint: 'Rows can be clicked; / to search, ? for all keys.'},
  flame: {title: 'Flame graph', show: showFlame},
  table: {title: 'Table', show: showTable, hint: 'Click a column to sort by it, a row to look into it, / to search.'},
  tree: {title: 'Tree', show: showTree, hint: 'Arrow keys move, open and close calls; / to search.'},
  ages: {title: 'Ages', show: showAges, hint: 'Click an age to see only that.'},
  source: {title: 'Source', show: showSource, hint: 'Lines with what they allocated beside them; / to search.'},
};

function showFlame() {
  showSide();
  relayout();
}

// show draws the view that is chosen.
function show() {
  for (const name of data.views) {
    $('tab-' + name).setAttribute('aria-selected', String(name === S.view));
    $('tab-' + name).tabIndex = name === S.view ? 0 : -1;
    $('view-' + name).hidden = name !== S.view;
  }
  for (const [id, key] of [['states', 'state'], ['units', 'unit'], ['grouping', 'by'], ['direction', 'inverted'],
    ['colours', 'colour'], ['widths', 'width']]) {
    for (const b of $(id).children) b.setAttribute('aria-pressed', String(b.dataset.value === String(S[key])));
  }
  const in_ = (...views) => views.includes(S.view);
  $('grouping').hidden = in_('table', 'source');
  $('direction').hidden = !in_('flame', 'tree');
  $('units').hidden = S.state === 'temporary';
  $('colours').hidden = S.view !== 'flame' || $('colours').children.length < 2;
  $('widths').hidden = !data.diff || !in_('flame', 'tree');
  $('types').hidden = S.view !== 'flame' || !typesKnown;
  showChips();
  showCrumbs();
  VIEWS[S.view].show();
  showLegend();
  showNotes();
  describe();
  remember();
}

function showNotes() {
  const notes = [];
  if (data.cut.note) notes.push(data.cut.note);
  if (data.views.length === 1) notes.push(...data.about.warnings);
  if (data.diff && S.view === 'flame') {
    const m = metric(), now = totalOf(m)[0], old = totalOf(m, 'old')[0];
    const change = S.width === 'change' ? widthTotal()[0] : 0;
    if (S.width === 'change') {
      const up = (change + now - old) / 2;
      notes.push('Widths are what changed: ' + amount(up) + ' more here and ' + amount(change - up) + ' less there, ' +
        signed(now - old, unitNow()) + ' in all.');
    } else if (S.width === 'now') {
      notes.push('Widths are what there is now; what went is not to be seen.');
    } else {
      notes.push('Widths are what there was before; what is new is not to be seen.');
    }
  }
  if (restricted() && S.state !== 'inuse' && unlabelled()) {
    const what = {alloc: 'allocated', peak: 'live at the peak', temporary: 'freed again at once'}[S.state];
    notes.push('What was ' + what + ' is known by stack only, not by ' + Object.keys(S.only).join(' or ') + '.');
  }
  $('note').hidden = notes.length === 0;
  $('note').classList.toggle('alarm', data.cut.note !== '' || restricted());
  $('note').replaceChildren(...notes.map(n => el('span', '', n + ' ')));
}

// unlabelled tells whether the metric at hand lacks the labels by which the page is restricted, where others have them.
function unlabelled() {
  const m = metric();
  if (m < 0) return false;
  for (let i = 0; i < R.n; i++) if (passes[i] && R.now[m][i] > 0) return false;
  return true;
}

// rebuild makes trees anew, since what boxes are or are worth has changed.
function rebuild(keepPath) {
  sums.forEach((_, key) => { if (key.startsWith('rows')) sums.delete(key); });
  root = makeRoot();
  treeRoot = null;
  deepest = 0;
  zoom = keepPath ? follow(keepPath) : root;
  selected = hovered = null;
  hideTip();
  findMatches();
  show();
}

function setView(view) {
  if (!data.views.includes(view) || S.view === view) return;
  S.view = view;
  hideTip();
  remember(true);
  show();
  window.scrollTo(0, 0);
}

function set(key, value) {
  if (S[key] === value) return;
  // The way down to the zoomed box means the same in another metric, and nothing in another direction or grouping.
  const keep = key !== 'by' && key !== 'inverted' ? pathOf(zoom).map(v => v.group) : null;
  S[key] = value;
  rebuild(keep);
}

// setOnly restricts what counts to one label of a dimension; null lifts that.
function setOnly(dimension, value) {
  const only = {...S.only};
  if (value === null) delete only[dimension]; else only[dimension] = value;
  const keep = pathOf(zoom).map(v => v.group);
  restrict(only);
  remember(true);
  rebuild(keep);
}

function setTable(to) {
  Object.assign(S, to);
  tableShown = TABLE_ROWS;
  showTable();
  remember();
}
function openTable(to, query) {
  Object.assign(S, {sort: null, down: true}, to);
  if (query) {
    $('search').value = query;
    S.query = query;
    findMatches();
  }
  setView('table');
}

// openFlame shows a row of frames in the flame graph, by searching for it.
function openFlame(r) {
  const q = r.place ? label(r.frame) + ' ' + r.place : r.name;
  $('search').value = q;
  S.query = q;
  if (S.group === 'function' && S.by === 'line' && S.view === 'table') S.by = 'function';
  S.view = 'flame';
  remember(true);
  rebuild();
  nextMatch(1);
}

function showChips() {
  const chips = $('chips');
  chips.replaceChildren();
  for (const [d, v] of Object.entries(S.only)) {
    const b = button('', 'Count everything again', () => setOnly(d, null), 'chip');
    b.append(el('span', 'faint', 'only ' + d + ' '), el('b', '', labelName(d, v)), ' ×');
    b.setAttribute('aria-label', 'only ' + d + ' ' + labelName(d, v) + '; click to count everything again');
    chips.append(b);
  }
  chips.hidden = chips.children.length === 0;
}

// ---- search

// tester returns what tells whether a text matches the search; null without a search, or with a broken one.
function tester() {
  if (S.query === '') return null;
  const re = /^\/(.+)\/$/.exec(S.query);
  if (!re) {
    const q = S.query.toLowerCase();
    return s => s.toLowerCase().includes(q);
  }
  try {
    const r = new RegExp(re[1], 'iu');
    return s => r.test(s);
  } catch (e) {
    return null;
  }
}

function findMatches() {
  const out = $('matched'), test = tester();
  out.classList.remove('bad');
  match = null;
  out.textContent = '';
  if (S.query === '') return;
  if (test === null) {
    out.textContent = 'not a regular expression';
    out.classList.add('bad');
    return;
  }
  match = frames.func.map((_, f) => test(label(f) + ' ' + place(f)));
  // A block counts once, however many calls on its stack match.
  const own = widthOwn(), below = new Uint8Array(T.n);
  let total = 0;
  for (let i = 1; i < T.n; i++) {
    below[i] = below[T.parent[i]] || (match[T.frame[i]] ? 1 : 0);
    if (below[i]) total += own[i];
  }
  const found = new Set();
  match.forEach((hit, f) => { if (hit) found.add(groupOf(f)); });
  const places = S.by === 'line' ? many(found.size, 'line', 'lines') : many(found.size, 'function', 'functions');
  out.textContent = found.size === 0 ? 'nothing matches'
    : percent(total, widthTotal()[0]) + ' · ' + amount(total) + ' · ' + places;
  if (found.size === 0 && S.view !== 'table' && S.view !== 'source') out.classList.add('bad');
}

function search(q) {
  S.query = q;
  findMatches();
  tableShown = TABLE_ROWS;
  if (S.view === 'flame') repaint();
  if (S.view === 'table') showTable();
  if (S.view === 'source') showSource();
  if (S.view === 'tree') {
    treeFind();
    showTree();
  }
  remember();
}

// ---- the address keeps what is shown, so that it can be bookmarked and Back undoes a zoom

function address() {
  const q = new URLSearchParams();
  if (S.view !== data.views[0]) q.set('view', S.view);
  if (S.state !== start.state) q.set('show', S.state);
  if (S.unit !== start.unit) q.set('unit', S.unit);
  if (S.by !== start.by) q.set('by', S.by);
  if (S.inverted !== start.invert) q.set('invert', S.inverted ? '1' : '0');
  if (S.colour !== (data.diff ? 'change' : 'origin')) q.set('colour', S.colour);
  if (S.width !== 'change') q.set('width', S.width);
  for (const [d, v] of Object.entries(S.only)) q.set(d, String(v));
  if (S.group !== 'line') q.set('group', S.group);
  if (S.sort) q.set('sort', S.sort);
  if (!S.down) q.set('up', '1');
  if (S.query) q.set('q', S.query);
  if (zoom && zoom.parent) q.set('zoom', pathOf(zoom).map(v => v.group).join('.'));
  const s = q.toString();
  return s ? '#' + s : '#';
}
function remember(push) {
  const a = address();
  if (a === (location.hash || '#')) return;
  try {
    if (push) history.pushState(null, '', a); else history.replaceState(null, '', a);
  } catch (e) { /* a page from a file may not be allowed to: then it has no history */ }
}
function recall() {
  const q = new URLSearchParams(location.hash.slice(1));
  const pick = (key, all, otherwise) => all.includes(q.get(key)) ? q.get(key) : otherwise;
  S.view = pick('view', data.views, data.views[0]);
  S.state = pick('show', states, start.state);
  S.unit = pick('unit', Object.keys(UNITS), start.unit);
  S.by = pick('by', ['line', 'function'], start.by);
  S.inverted = q.has('invert') ? q.get('invert') === '1' : start.invert;
  S.colour = pick('colour', COLOURS.map(([c]) => c), COLOURS[0][0]);
  S.width = pick('width', ['change', 'now', 'old'], 'change');
  S.group = pick('group', Object.keys(GROUPS).filter(g => ofFrames(g) || DIMENSIONS.includes(g)), 'line');
  S.sort = q.get('sort');
  S.down = q.get('up') !== '1';
  S.query = q.get('q') || '';
  $('search').value = S.query;
  const only = {};
  for (const d of DIMENSIONS) if (q.has(d) && R[d].includes(Number(q.get(d)))) only[d] = Number(q.get(d));
  restrict(only);
  rebuild((q.get('zoom') || '').split('.').filter(s => s).map(Number));
}

// ---- controls

function fill(id, key, options) {
  for (const [value, name, title] of options) {
    const b = button(name, title, e => {
      set(key, value);
      if (e.detail > 0 && S.view === 'flame') stage.focus({preventScroll: true}); // keys belong to the graph again
    });
    b.dataset.value = String(value);
    $(id).append(b);
  }
  $(id).hidden = options.length < 2;
}
const TITLES = {
  inuse: 'What was still allocated when the snapshot was taken (a)',
  alloc: 'All that was ever allocated (a)',
  peak: 'What was live when memory was at its highest (a)',
  temporary: 'Blocks that were freed again at once, within a few allocations of their thread (a)',
};
const COLOURS = [
  ...(data.diff ? [['change', 'Change', 'What grew and what shrank (o)']] : []),
  ['origin', 'Origin', 'Whose code it is (o)'],
  ...(!data.diff && typesKnown ? [['type', 'Types', 'Which types were allocated (o)']] : []),
];
fill('states', 'state', states.map(s => [s, STATES[s], TITLES[s]]));
fill('units', 'unit', [
  ['space', 'Bytes', 'Count bytes (b)'],
  ['objects', 'Blocks', 'Count blocks (b)'],
]);
fill('grouping', 'by', [
  ['line', 'Lines', 'A box for each line (l)'],
  ['function', 'Functions', 'A box for each function (l)'],
]);
fill('direction', 'inverted', [
  [false, 'Callers first', 'Callers above what they call (i)'],
  [true, 'Inverted', 'What allocated on top, its callers below (i)'],
]);
fill('colours', 'colour', COLOURS);
fill('widths', 'width', [
  ['change', 'Width: change', 'Widths are what changed (w)'],
  ['now', 'now', 'Widths are what there is now (w)'],
  ['old', 'before', 'Widths are what there was before (w)'],
]);

for (const name of data.views) {
  const title = VIEWS[name].title, key = data.views.indexOf(name) + 1;
  const b = button(title, title + ' (' + key + ')', () => setView(name));
  b.id = 'tab-' + name;
  b.setAttribute('role', 'tab');
  b.setAttribute('aria-controls', 'view-' + name);
  $('tabs').append(b);
  $('view-' + name).setAttribute('role', 'tabpanel');
  $('view-' + name).setAttribute('aria-labelledby', 'tab-' + name);
}
$('tabs').hidden = data.views.length < 2;
$('tabs').addEventListener('keydown', e => {
  if (e.key !== 'ArrowLeft' && e.key !== 'ArrowRight') return;
  e.preventDefault();
  e.stopPropagation();
  const i = data.views.indexOf(S.view) + (e.key === 'ArrowRight' ? 1 : data.views.length - 1);
  setView(data.views[i % data.views.length]);
  $('tab-' + S.view).focus();
});

$('info').append(...factList(data.about.now).children);
$('facts').hidden = $('info').children.length === 0 || data.views.includes('overview');

const prefersDark = matchMedia('(prefers-color-scheme: dark)');
let theme = null; // the reader's choice; null follows the system
function applyTheme() {
  document.documentElement.dataset.theme = printing ? 'light' : theme || (prefersDark.matches ? 'dark' : 'light');
}
function switchTheme() {
  theme = document.documentElement.dataset.theme === 'dark' ? 'light' : 'dark';
  applyTheme();
  show();
}
prefersDark.addEventListener('change', () => { applyTheme(); show(); });

const openDialog = id => { hideTip(); $(id).showModal(); };
$('facts').addEventListener('click', () => openDialog('about'));
$('help').addEventListener('click', () => openDialog('keys'));
$('theme').addEventListener('click', switchTheme);
$('types').addEventListener('click', () => FLAME_KEYS.y());
for (const d of document.querySelectorAll('dialog')) {
  d.addEventListener('click', e => { if (e.target === d) d.close(); }); // on the backdrop
}
$('search').addEventListener('input', e => search(e.target.value.trim()));

const other = (list, v) => list[(list.indexOf(v) + 1) % list.length];
const KEYS = {
  Escape: () => {
    if (S.query) {
      $('search').value = '';
      search('');
    } else if (S.view === 'flame' && zoom.parent) {
      zoomTo(root);
    } else if (restricted()) {
      restrict({});
      rebuild();
    } else if (S.view === 'flame') {
      zoomTo(root);
    }
  },
  '/': () => $('search').select(),
  i: () => set('inverted', !S.inverted),
  b: () => set('unit', other(['space', 'objects'], S.unit)),
  a: () => set('state', other(states, S.state)),
  l: () => set('by', other(['line', 'function'], S.by)),
  o: () => set('colour', other(COLOURS.map(([c]) => c), S.colour)),
  w: () => { if (data.diff) set('width', other(['change', 'now', 'old'], S.width)); },
  t: switchTheme,
  '?': () => openDialog('keys'),
};
data.views.forEach((name, i) => { KEYS[i + 1] = () => setView(name); });

document.addEventListener('keydown', e => {
  if (document.querySelector('dialog[open]') || e.ctrlKey || e.metaKey || e.altKey) return;
  const typing = e.target === $('search');
  if (typing && e.key !== 'Escape' && e.key !== 'Enter') return;
  if (e.key === 'Enter' && e.target.tagName === 'BUTTON') return;
  if (typing) {
    e.target.blur();
    if (S.view === 'flame') stage.focus({preventScroll: true});
    if (e.key === 'Enter') {
      e.preventDefault();
      if (S.view === 'flame') nextMatch(1);
      if (S.query && (S.view === 'overview' || S.view === 'ages')) openTable({group: S.by}, S.query);
      return;
    }
  }
  const keys = S.view === 'flame' && Object.hasOwn(FLAME_KEYS, e.key) ? FLAME_KEYS : KEYS;
  if (!Object.hasOwn(keys, e.key)) return;
  e.preventDefault();
  keys[e.key](e.key);
});

new ResizeObserver(() => { if (!printing && rows.length > 0 && S.view === 'flame') relayout(); }).observe(stage);
let wide = window.innerWidth;
window.addEventListener('resize', () => {
  if (wide === window.innerWidth || printing) return;
  wide = window.innerWidth;
  if (S.view === 'flame') showSide();
  if (S.view === 'overview') showOverview();
});
window.addEventListener('popstate', recall);
function print(on) {
  printing = on;
  for (const sheet of document.querySelectorAll('.sheet')) sheet.remove();
  applyTheme();
  show();
}
window.addEventListener('beforeprint', () => print(true));
window.addEventListener('afterprint', () => print(false));

$('tools').hidden = $('more').hidden = false;
applyTheme();
recall();

// For scripts and tests: what is shown, and where on the page.
window.heaptap = {
  state: () => ({
    ...S, only: Object.fromEntries(Object.entries(S.only).map(([d, v]) => [d, labelName(d, v)])),
    zoom: pathOf(zoom).map(v => label(v.frame)), selected: selected && label(selected.frame),
    total: root.value, rows: rows.length, boxes: rows.reduce((n, r) => n + r.length, 0),
    theme: document.documentElement.dataset.theme,
  }),
  box: (name, row) => {
    const r = canvas.getBoundingClientRect();
    for (const b of rows.flat()) {
      if (!b.rest && b.v.parent && label(b.v.frame) === name && (row === undefined || b.row === row)) {
        const y = r.top + b.row * ROW - stage.scrollTop;
        return {x: r.left + b.x, y, width: b.w, height: ROW, row: b.row, value: b.v.value,
          change: data.diff ? changeOf(b.v).kind : ''};
      }
    }
    return null;
  },
};
