// The tree: the same calls as in the flame graph, line by line, opened as far as the reader wants.

const TREE_CHILDREN = 50; // shown of a call
const TREE_FIRST = 0.05; // share from which calls are open at first
const TREE_DEEP = 40; // calls that are open at first, at most, below each other
let treeRoot = null, treeAt = null;

function showTree() {
  if (treeRoot === null) {
    treeRoot = makeRoot();
    openLargest(treeRoot);
    treeAt = treeRoot;
  }
  const list = el('div', 'tree');
  list.setAttribute('role', 'tree');
  list.setAttribute('aria-label', S.inverted ? 'What allocated, its callers below'
    : 'Calls, callers above what they call');
  const todo = [treeRoot];
  let n = 0;
  while (todo.length > 0 && n < 5000) {
    const v = todo.pop();
    n++;
    list.append(v.note ? el('div', 'faint note', v.note) : treeItem(v));
    if (!v.open) continue;
    const below = kids(v), shown = below.slice(0, TREE_CHILDREN);
    if (below.length > shown.length) {
      const rest = below.slice(TREE_CHILDREN).reduce((s, k) => s + k.value, 0);
      const note = {note: many(below.length - shown.length, 'smaller call', 'smaller calls') + ', ' + amount(rest)};
      todo.push(note);
    }
    for (let i = shown.length - 1; i >= 0; i--) todo.push(shown[i]);
  }
  const head = el('div', 'treehead', el('span', 'much', data.diff ? 'Change' : UNITS[unitNow()]),
    el('span', 'share', data.diff ? '%' : 'Share'), el('span', 'name', 'Call'));
  $('view-tree').replaceChildren(head, list);
}

// openLargest opens what has a good share of all, so that the reader sees at once where the memory goes.
function openLargest(v) {
  const todo = [v];
  while (todo.length > 0) {
    const at = todo.pop();
    at.open = at.depth < TREE_DEEP;
    if (!at.open) continue;
    for (const k of kids(at)) if (k.value >= TREE_FIRST * treeRoot.value && treeRoot.value > 0) todo.push(k);
  }
}

function treeItem(v) {
  const isRoot = v.parent === null, leaf = kids(v).length === 0;
  const item = el('div', 'item' + (match !== null && !isRoot && match[v.frame] ? ' hit' : ''));
  item.setAttribute('role', 'treeitem');
  item.setAttribute('aria-level', String(v.depth + 1));
  if (!leaf) item.setAttribute('aria-expanded', String(Boolean(v.open)));
  item.tabIndex = v === treeAt ? 0 : -1;
  item.box = v;
  const bar = el('span', 'bar');
  let much = amount(v.value), share = percent(v.value, treeRoot.value);
  if (data.diff) {
    const c = changeOf(v);
    much = signed(c.now - c.old, unitNow());
    share = growth(c.now, c.old);
    if (c.now < c.old) bar.classList.add('less');
  }
  bar.style.width = (100 * v.value / Math.max(1, treeRoot.value)) + '%';
  const name = el('span', 'name');
  name.style.setProperty('--depth', String(Math.min(v.depth, 60)));
  name.append(el('span', 'twist', leaf ? '' : v.open ? '▾' : '▸'), el('span', '', isRoot ? rootLabel() : label(v.frame),
    isRoot ? '' : el('span', 'faint place', place(v.frame))));
  item.append(el('span', 'much', much), el('span', 'share', share), name, bar);
  item.addEventListener('click', () => {
    treeAt = v;
    v.open = !v.open && !leaf;
    refocusTree();
  });
  item.addEventListener('keydown', treeKey);
  return item;
}

function refocusTree() {
  showTree();
  const item = [...document.querySelectorAll('#view-tree .item')].find(i => i.box === treeAt);
  if (item) item.focus();
}

function treeKey(e) {
  if (e.ctrlKey || e.metaKey || e.altKey) return;
  const items = [...document.querySelectorAll('#view-tree .item')], i = items.indexOf(e.currentTarget), v = treeAt;
  const go = k => { if (items[k]) treeAt = items[k].box; };
  switch (e.key) {
    case 'ArrowDown': go(i + 1); break;
    case 'ArrowUp': go(i - 1); break;
    case 'Home': go(0); break;
    case 'End': go(items.length - 1); break;
    case 'ArrowRight':
      if (!v.open && kids(v).length > 0) v.open = true; else if (v.open && kids(v).length > 0) treeAt = kids(v)[0];
      break;
    case 'ArrowLeft':
      if (v.open) v.open = false; else if (v.parent) treeAt = v.parent;
      break;
    case 'Enter':
    case ' ': v.open = !v.open && kids(v).length > 0; break;
    default: return;
  }
  e.preventDefault();
  e.stopPropagation();
  refocusTree();
}

// treeFind opens the way to the largest calls that match the search.
function treeFind() {
  if (match === null || treeRoot === null) return;
  const todo = [treeRoot];
  let looked = 0, found = 0;
  while (todo.length > 0 && looked++ < 20000 && found < 50) {
    const v = todo.shift();
    if (v.parent && match[v.frame]) {
      found++;
      for (let p = v.parent; p; p = p.parent) p.open = true;
      continue;
    }
    todo.push(...kids(v).slice(0, TREE_CHILDREN));
  }
}

