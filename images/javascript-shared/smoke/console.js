//%%
console.log('%s is %d years and %i, %f, %j %o %O %c%%', 'Bob', 42.5, 42.9, '1.5', { a: 1 }, [1], { b: 2 }, 'css', 'rest');
console.log('100%', 5, '%s'); console.log('%s', null, undefined, 5n, Symbol('x')); console.log('%s', { a: { b: 1 } }, class A {}, function f() {});
console.info('info'); console.debug('debug'); console.warn('warn'); console.error('error %d', 1);
//%%
console.log({ a: { b: { c: { d: 1 } } } }, [[[[1]]]]);
console.log([undefined, null, , 3, , ,], [1, 'two', [3]], Array(3), Object.assign([1], { extra: true }));
console.log(new Map([['a', { b: 1 }], [{ k: 1 }, 'v']]), new Set([1, 'x']), new WeakMap(), new WeakSet());
console.log([1.5, -0, NaN, Infinity, 10n], true, null, undefined, Symbol('s'), 'str', ['str', "it's", 'both \' and "', 'new\nline']);
console.log(class A {}, class B extends Map {}, function f() {}, () => {}, async () => {}, function* g() {}, Math.max);
console.log(new Date(0), new Date(NaN), /re/gi, new Error('shown').message, Object.create(null), Object.create({ constructor: class Foo {} }));
class Person { #secret = 1; name = 'Ann'; get age() { return 1; } static x = 1; }
console.log(new Person(), [new Person()], { person: new Person() }, Person);
console.log({ get a() { return 1; }, set b(x) {}, get c() { return 1; }, set c(x) {}, [Symbol('sym')]: 1, 'a-b': 2, 3: 4 });
console.log(new Uint8Array([1, 2, 3]), new Float64Array(2), new ArrayBuffer(4), new DataView(new ArrayBuffer(2)), Buffer.from('hi'));
console.log(Promise.resolve(4), new Promise(() => {}), (() => { const p = Promise.reject(3); p.catch(() => {}); return p; })());
console.log(new Number(3), new String('abc'), new Boolean(false), Object(Symbol('q')), Object(7n), [new String('x')]);
console.log((function () { return arguments; })(1, 2), new Map([[1, 2]]).entries(), [1][Symbol.iterator](), globalThis === global);
console.log(JSON, Math, new (class extends Array {})(3), new (class Foo extends Map {})([[1, 2]]), process.versions.quickjs !== undefined);
//%%
const circular = { name: 'c', list: [] }; circular.list.push(circular, { circular }); console.log(circular);
console.log(Array.from({ length: 120 }, (_, i) => i)); console.log(Array.from({ length: 27 }, (_, i) => 'item' + i));
console.log({ text: 'a long text that goes on and on', other: 'another long text that goes on and on', third: 3 });
console.log(Array.from({ length: 4 }, (_, i) => ({ id: i, name: `name number ${i}`, tags: ['a', 'b'] })));
console.log('a'.repeat(20000).length, ['b'.repeat(10050)][0].length, 'multi\nline', ['multi\nline']);
console.log(new Set(Array.from({ length: 102 }, (_, i) => i)).size, { a: 'x'.repeat(100) });
console.log(new Proxy([1, 2], {}), new Proxy(function f() {}, {}), [new Proxy({ a: 1 }, { get() { throw 1; } })]);
//%%
console.table([{ a: 1, b: 'x' }, { a: 2, c: true }]); console.table([[1, 2], [3, 4]]); console.table(['p', 'q']); console.table(new Map([['k', 1]])); console.table([{ a: 1, b: 2 }], ['b']); console.table(5);
console.group('Group'); console.log('inside\ntwo lines'); console.group(); console.warn('deeper'); console.groupEnd(); console.groupEnd(); console.log('outside');
console.assert(true, 'no'); console.assert(false, 'failed %s', 'x'); console.assert(false); console.assert(false, { a: 1 });
console.count(); console.count(); console.count('named'); console.countReset(); console.count();
console.dir({ a: { b: { c: { d: 1 } } } }, { depth: 0 }); console.timeEnd('none'); console.time('t');
//%%
function place() { console.trace('here %d', 1); } place();
console.log(new Error('with a stack')); console.log({ error: new TypeError('nested') });
class HttpError extends Error { constructor(m, status) { super(m); this.status = status; } }
console.log(new HttpError('not found', 404)); console.log([new Error('')]); console.log(new Error('a', { cause: 'b' }));
//%%
console.group('left open');
//%%
console.log('not indented'); console.log(); console.log(''); console.log('\ud800 lone', 'nul \0 inside', 'é 日本 👍');
process.stdout.write('no newline'); process.stdout.write('\n'); process.stderr.write('to stderr\n');
const util = require('util');
console.log(util.inspect({ a: 1, b: { c: {} } }, { depth: 0 }), util.inspect('x'), util.format('%s-%s', 1, 2), util.inspect(new Map([[{ a: 1 }, 2]]), { compact: false }));
