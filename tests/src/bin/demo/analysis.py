import numpy as np, pandas as pd, matplotlib.pyplot as plt
sales = pd.read_csv('sales.csv')
goals = pd.read_excel('goals.xlsx')
table = sales.groupby('region', as_index=False).amount.sum().merge(goals, on='region')
table['reached'] = (table.amount / table.goal).round(2)
months = sales.groupby('month').amount.sum()
slope, start = np.polyfit(months.index, months.values, 1)

plt.bar(table.region, table.amount); plt.plot(table.region, table.goal, 'r_', markersize=60); plt.title('Sales and goals · 売上')
plt.savefig('regions.png'); plt.show()
plt.plot(months.index, months.values, 'o-'); plt.plot([1, 3], [start + slope, start + 3 * slope], '--'); plt.title('Trend')
plt.savefig('trend.png'); plt.show()
sales.pivot(index='month', columns='region', values='amount').plot.area(title='By region')
plt.savefig('stack.png'); plt.show()

from reportlab.platypus import SimpleDocTemplate, Paragraph, Table, Image
from reportlab.lib.styles import getSampleStyleSheet
style = getSampleStyleSheet()
SimpleDocTemplate('report.pdf').build([
    Paragraph('Sales report', style['Title']),
    Table([list(table.columns)] + table.values.tolist()),
    Paragraph(f'Each month sells {slope:.0f} more; {start + 3 * slope:.0f} are expected in the next.', style['Normal']),
    *[Image(name, 230, 172) for name in ('regions.png', 'trend.png', 'stack.png')],
])
table.to_json('table.json', orient='records')
table
