// Without script all can be read: pages, links, forms.
require('./lib')(async s => {
  const context = await s.someone({javaScriptEnabled: false});
  const page = await s.tab(context);
  await s.signIn(page);
  await s.heading(/1 of 2 instances is safe/, page);
  await s.says(/clinic is late/, page);
});
