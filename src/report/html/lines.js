// Margin and KL over the tokens, on logarithmic axes.
const CHART_LEFT = 46;
const CHART_RIGHT = 12;
const ZERO_LANE = 18;

// A frame with axes for `scale`; y(value) and x(index) place a mark, null where
// there is nothing to place.
class LineFrame {
  constructor(width, height, count, scale, title) {
    this.width = width;
    this.height = height;
    this.count = count;
    this.scale = scale;
    this.top = 8;
    this.bottom = height - 22 - (scale.hasZero ? ZERO_LANE : 0);
    this.picture = svg('svg', {
      class: 'lines', width, height, role: 'group', 'aria-label': `${title}; arrow keys move`,
    });
    this.drawAxes();
  }

  x(index) {
    const span = this.width - CHART_LEFT - CHART_RIGHT;
    return CHART_LEFT + (this.count < 2 ? span / 2 : (index * span) / (this.count - 1));
  }

  y(value) {
    if (value === 0) return this.bottom + ZERO_LANE - 5;
    if (!(value > 0)) return null;
    if (!Number.isFinite(value)) return this.top;
    return this.bottom - this.scale.fraction(value) * (this.bottom - this.top);
  }

  index(x) {
    const span = this.width - CHART_LEFT - CHART_RIGHT;
    const index = this.count < 2 ? 0 : Math.round(((x - CHART_LEFT) * (this.count - 1)) / span);
    return index >= 0 && index < this.count ? index : null;
  }

  drawAxes() {
    const right = this.width - CHART_RIGHT;
    for (const exponent of this.scale.empty ? [] : this.scale.ticks(4)) {
      const y = this.y(10 ** exponent);
      this.picture.append(
        svg('line', { class: 'grid', x1: CHART_LEFT, x2: right, y1: y, y2: y }),
        svg('text', { class: 'tick', x: CHART_LEFT - 6, y: y + 4, 'text-anchor': 'end' },
          powerOfTen(exponent)));
    }
    if (this.scale.hasZero) {
      const y = this.y(0);
      this.picture.append(
        svg('line', { class: 'axis', x1: CHART_LEFT, x2: right, y1: this.bottom + 4, y2: this.bottom + 4 }),
        svg('text', { class: 'tick', x: CHART_LEFT - 6, y: y + 4, 'text-anchor': 'end' }, '0'));
    }
    const stride = Math.max(1, 10 ** Math.floor(Math.log10(Math.max(1, this.count / 4))));
    const step = [1, 2, 5, 10].map((k) => k * stride).find((k) => this.count / k <= this.width / 60);
    for (let index = 0; index < this.count; index += step) {
      this.picture.append(svg('text', {
        class: 'tick', x: this.x(index), y: this.height - 6, 'text-anchor': 'middle',
      }, String(index)));
    }
  }

  // A line through the values that exist; gaps where one does not.
  path(values, className, stepped = false) {
    let d = '';
    let open = false;
    values.forEach((value, index) => {
      const y = this.y(value);
      if (y === null) {
        open = false;
        return;
      }
      const x = this.x(index).toFixed(1);
      if (!open) d += `M${x} ${y.toFixed(1)}`;
      else d += stepped ? `H${x}V${y.toFixed(1)}` : `L${x} ${y.toFixed(1)}`;
      open = true;
    });
    // A single token gives a short line instead of a path without length.
    if (values.length === 1 && d) d += 'm-30 0h60';
    this.picture.append(svg('path', { class: `series ${className}`, d }));
  }

  explore(panel, modeOf) {
    const guide = svg('line', { class: 'guide', y1: this.top, y2: this.height - 18, visibility: 'hidden' });
    this.picture.append(guide);
    let at = 0;
    explorable(this.picture, {
      hit: (event) => this.index(event.clientX - this.picture.getBoundingClientRect().left),
      move: ([dx]) => Math.min(this.count - 1, Math.max(0, at + dx)),
      show: (index, point) => {
        at = index;
        const box = this.picture.getBoundingClientRect();
        panel.point(index);
        details.show(...panel.describe(index, modeOf(index)),
          ...(point || [box.left + this.x(index), box.top + this.top + 20]));
      },
      clear: () => panel.point(null),
    });
    panel.followers.push((index) => {
      const shownHere = index !== null && index < this.count;
      guide.setAttribute('visibility', shownHere ? 'visible' : 'hidden');
      if (!shownHere) return;
      guide.setAttribute('x1', this.x(index));
      guide.setAttribute('x2', this.x(index));
    });
  }
}

// The mode that has most to say about a token: one that mismatches.
function speakingMode(panel, index) {
  return panel.modes.find((mode) => mode.mismatches[index] && index < mode.kl.values.length) ||
    panel.modes.find((mode) => index < mode.kl.values.length) || panel.modes[0];
}

function drawMargins(panel, width) {
  const { margins, ulps } = panel.tokens;
  const tolerance = ulps.map((ulp, index) => panel.tolerance(index, speakingMode(panel, index)));
  const known = [...margins].filter((margin) => !Number.isNaN(margin));
  if (known.length === 0) {
    return element('p', { class: 'quiet' }, 'No margin is known: the recording holds fewer than two logits per step.');
  }
  const scale = new LogScale([...known, ...tolerance]);
  const frame = new LineFrame(width, 190, margins.length, scale, 'Margin over tokens');
  frame.path([...tolerance], panel.byNoise ? 'tolerance noise' : 'tolerance', true);
  frame.path([...ulps], 'ulp', true);
  margins.forEach((margin, index) => {
    const y = frame.y(margin);
    if (y === null) return;
    const mode = speakingMode(panel, index);
    const letter = mode.letters[index];
    if (mode.mismatches[index]) {
      frame.picture.append(stripSymbol(letter, frame.x(index) - 6, y - 6));
    } else {
      frame.picture.append(svg('circle', { class: 'margin', cx: frame.x(index), cy: y, r: 2 }));
    }
  });
  frame.explore(panel, (index) => speakingMode(panel, index));
  return frame.picture;
}

function drawKl(panel, width) {
  const all = panel.modes.flatMap((mode) => [...mode.kl.values]);
  const scale = new LogScale(all.filter((kl) => !Number.isNaN(kl)), 12);
  if (scale.empty) {
    return element('p', { class: 'quiet' }, scale.hasZero
      ? 'KL is 0 at every compared token: equal distributions.'
      : 'No KL could be computed: the statistics are not finite or hold no logits.');
  }
  const count = panel.tokens.margins.length;
  const frame = new LineFrame(width, 170, count, scale, `${panel.klName} over tokens`);
  for (const mode of panel.modes) frame.path([...mode.kl.values], `mode-${mode.mode}`);
  frame.explore(panel, (index) => panel.modes
    .filter((mode) => index < mode.kl.values.length)
    .reduce((worst, mode) => (mode.kl.values[index] > worst.kl.values[index] ? mode : worst),
      speakingMode(panel, index)));
  return frame.picture;
}

function lineLegend(entries) {
  const legend = element('ul', { class: 'legend' });
  for (const [className, name] of entries) {
    const sample = className === 'margin'
      ? svg('circle', { class: 'margin', cx: 12, cy: 6, r: 2.5 })
      : svg('path', { class: `series ${className}`, d: 'M0 6h24' });
    legend.append(element('li', {}, svg('svg', { width: 24, height: 12, 'aria-hidden': 'true' }, sample), name));
  }
  return legend;
}

