//%%
console.log('before'); process.exit(3); console.log('after');
//%%
try { process.exit(0); } catch { console.log('not catchable'); } finally { console.log('nor finally'); }
//%%
setTimeout(() => process.exit(7), 1); setTimeout(() => console.log('never'), 20);
//%%
Promise.resolve().then(() => process.exit(1)).then(() => console.log('never'));
//%%
process.exitCode = 4; 'a value'
//%%
process.on('exit', (code) => console.log('leaving with', code)); process.exit();
//%%
new Promise(() => process.exit(5)); console.log('never'); 'no value'
//%%
'still here'
