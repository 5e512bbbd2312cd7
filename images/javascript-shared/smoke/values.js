// The value of the last expression is a result; undefined is none.
//%%
undefined
//%%
const x = 1;
//%%
'text'
//%%
-0
//%%
{ 1; 2 }
//%%
for (let i = 0; i < 3; i++) i * 2
//%%
({ a: [1, { b: null }], 'key with space': true })
//%%
[1, 2, 3]
//%%
// No JSON form: not plain.
[new Date(0), new Map([['k', { v: 1 }]]), new Set(['s']), 10n, Symbol('s'), undefined, NaN]
//%%
[function named() {}, class A {}, class B extends Array {}, () => 1]
//%%
Promise.resolve({ awaited: true })
//%%
await new Promise((resolve) => setTimeout(resolve, 1, 'from a timer'))
//%%
new Promise(() => {})
//%%
// Getters and toJSON are not run.
({ get trap() { throw new Error('never'); }, toJSON() { for (;;); } })
//%%
new Proxy({ a: 1 }, { get() { throw new Error('never'); }, ownKeys() { throw new Error('never'); } })
//%%
const circle = { name: 'c' }; circle.self = circle; circle
//%%
display('shown'); display({ a: 1 }, [2]); display.html('<b>x</b>');
//%%
({ [Symbol.for('Jupyter.display')]() { return { 'text/html': '<i>rich</i>', 'text/plain': 'plain' }; } })
//%%
display.mime({ 'text/html': 'x'.repeat(1024 * 1024) })
//%%
({ [Symbol.for('Jupyter.display')]: () => ({ 'text/html': 'ä'.repeat(600 * 1024) }) })
//%%
({ [Symbol.for('Jupyter.display')]() { throw new Error('from display'); } })
//%%
'z'.repeat(10005).length
//%%
'z'.repeat(10005).slice(0, 10) + '…'
//%%
new (class { [Symbol.for('nodejs.util.inspect.custom')]() { throw new TypeError('custom'); } })
