// Depth and size end in errors, never in a trap, and the session goes on.
//%%
function forever() { return forever() + 1; }
try { forever(); } catch (error) { console.log(error instanceof RangeError, error.name); }
//%%
forever();
//%%
let nested = []; for (let i = 0; i < 100000; i++) nested = [nested];
console.log(nested);
nested
//%%
'['.repeat(100000) + ']'.repeat(100000) === '' || eval('['.repeat(100000) + ']'.repeat(100000))
//%%
JSON.parse('['.repeat(100000))
//%%
const tower = { toString() { return `${this}`; } };
`${tower}`
//%%
class Loop { get x() { return this.x; } }
new Loop().x
//%%
const p = new Proxy({}, { get: (t, k, r) => r[k] }); p.anything
//%%
new RegExp('('.repeat(50000) + ')'.repeat(50000))
//%%
/(a*)*b/.test('a'.repeat(18))
//%%
[1, 2].toString = function () { return this.join(); };
const self = []; self[0] = self; String(self)
//%%
const map = (n) => [n].map(() => map(n + 1)); map(0)
//%%
new Function(`return ${'-'.repeat(1)}${'(- '.repeat(50000)}1${')'.repeat(50000)}`)
//%%
let chain = Promise.resolve(); for (let i = 0; i < 100000; i++) chain = chain.then(() => i);
await chain
//%%
const sorted = [3, 1, 2].sort(() => { throw new Error('compare'); });
//%%
let list = null; for (let i = 0; i < 300000; i++) list = { list }; list = null; 'freed'
//%%
structuredClone(nested)
//%%
function sum(n) { return n === 0 ? 0 : n + sum(n - 1); }
sum(10000)
//%%
for (const piece of ['!', '[', '(', '`${', 'a = ', 'typeof ', 'x => ']) {
  try { eval(piece.repeat(100000)); } catch (error) { console.log(piece, error.name); }
}
//%%
1 + 1
