function value(row, column) {
  const text = row.cells[column].dataset.value;
  const number = Number(text);
  return text === "" || Number.isNaN(number) ? text : number;
}
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement;
    const table = head.closest("table");
    const rising = head.getAttribute("aria-sort") !== "ascending";
    for (const other of head.parentElement.cells) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", rising ? "ascending" : "descending");
    const body = table.tBodies[0];
    const rows = [...body.rows].sort((a, b) => {
      const x = value(a, head.cellIndex), y = value(b, head.cellIndex);
      return (x < y ? -1 : x > y ? 1 : 0) * (rising ? 1 : -1);
    });
    body.append(...rows);
  });
}
