// Ages: how old what is live is, and of which types.

function showAges() {
  const view = $('view-ages');
  const rows = byLabel('age').sort((a, b) => (a.key < 0 ? Infinity : a.key) - (b.key < 0 ? Infinity : b.key));
  const known = rows.filter(r => r.key >= 0);
  view.replaceChildren();
  if (S.state !== 'inuse') {
    view.append(el('p', 'faint', 'Ages are known of live blocks only; this is what was ' +
      (S.state === 'alloc' ? 'allocated, live or not.' : 'live at the peak.')));
  }
  if (known.length === 0) {
    view.append(el('p', 'faint', 'This snapshot does not know ages.'));
    return;
  }
  const largest = Math.max(1, ...rows.map(r => Math.max(r.now, r.old)));
  const whole = rows.reduce((s, r) => s + r.now, 0);
  const list = el('ul', 'ages');
  for (const r of rows) list.append(el('li', '', ageItem(r, largest, whole)));
  view.append(el('p', 'faint', 'Time since allocation, when the snapshot was taken. Click an age to see only that: ' +
    'which lines and types are old is what tells a leak from work in progress.'), list);
  if (typesKnown && !data.diff) {
    const legend = el('p', 'legend');
    for (const key of typesWithColours()) legend.append(legendItem(typeColour(key), labelName('type', key)));
    legend.append(legendItem(typeColour(-1), 'others'));
    view.append(legend);
  }
  const lines = frameRows(S.by).filter(r => data.diff ? r.now !== r.old : r.now > 0);
  const title = S.only.age === undefined ? 'Lines of all ages' : 'Lines, ' + labelName('age', S.only.age);
  view.append(ranking(title, lines, r => [r.name, r.place], r => openFlame(r), 'Show it in the flame graph',
    {group: S.by}));
}

function ageItem(r, largest, whole) {
  const on = S.only.age === r.key, name = labelName('age', r.key);
  const title = on ? 'Show all ages again' : 'Show only ' + name;
  const b = button('', title, () => setOnly('age', on ? null : r.key), 'age');
  b.setAttribute('aria-pressed', String(on));
  b.dataset.age = String(r.key);
  const bar = el('span', 'bar mixed');
  bar.style.width = (100 * r.now / largest) + '%';
  if (typesKnown && !data.diff) {
    const types = byLabel('type', [[0, T.n]], i => R.age[i] === r.key), coloured = typesWithColours();
    for (const t of types.filter(t => coloured.includes(t.key))) {
      const piece = el('i');
      piece.style.width = (100 * t.now / r.now) + '%';
      piece.style.background = typeColour(t.key);
      piece.title = labelName('type', t.key) + ': ' + amount(t.now);
      bar.append(piece);
    }
  }
  b.append(el('span', 'name', name), el('span', 'much', muchOf(r)),
    el('span', 'share', shareOf(r, whole)), el('span', 'track', bar));
  return b;
}

