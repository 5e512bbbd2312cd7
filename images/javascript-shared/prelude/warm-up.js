// Runs once when the image is built. What most programs do is done here, so that the snapshot holds it compiled
// and allocated, and a session's first execution touches few new pages. Its output and variables are dropped.
{
  const util = require('util');
  class Point {
    constructor(x, y) {
      this.x = x;
      this.y = y;
    }
  }
  const primitives = [1, 'text', null, undefined, Symbol('s'), 1n, () => 1];
  const objects = [[1, 2, 3], { a: 1, b: { c: [2] } }, new Map([['k', 1]]), new Set([1]), new Date(0), /x/g];
  const samples = [primitives, objects, new Point(1, 2), new Error('x')];
  util.format('%s %d %j', 'a', 1, {}, samples);
  JSON.parse(JSON.stringify({ a: [1, 'b', null], c: { d: 1.5 } }));
  [3, 1, 2].sort((a, b) => a - b).map((x) => x * 2).filter(Boolean).reduce((a, b) => a + b, 0);
  'a,b'.split(',').join(' ').replace(/[a-z]/g, (c) => c.toUpperCase()).padStart(10);
  new URL('https://example.org/path?q=1').searchParams.get('q');
  new TextDecoder().decode(new TextEncoder().encode('é'));
  structuredClone({ a: [1], b: new Map() });
  await Promise.all([1, 2].map(async (x) => x + 1));
  await new Promise((resolve) => setTimeout(resolve, 0));
  require('path').join('a', 'b');
}
({ answer: [42] });
