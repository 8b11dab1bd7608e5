"use strict";
// DataTables sorts and filters; without its file the page shows the same tables, and says so.

const sorts = "DataTable" in window;
document.getElementById("unsorted")?.toggleAttribute("hidden", sorts);

for (const table of sorts ? document.querySelectorAll("table.sortable") : []) {
  const plain = table.matches(".plain");
  const many = table.tBodies[0].rows.length > 5;
  const headings = [...table.tHead.rows[0].cells];
  // A page of details has only the text of its numbers.
  for (const row of plain ? table.tBodies[0].rows : []) {
    for (const cell of row.cells) {
      const number = Number(cell.textContent.replaceAll(",", "").replace("\u2212", "-"));
      if (!Number.isNaN(number)) cell.dataset.value = number;
    }
  }
  new DataTable(table, {
    // Numbers are sorted by nine digits, which their cells have as an attribute.
    columns: headings.map((heading, i) =>
      (plain ? !heading.matches(".text") : heading.matches(".number"))
        ? { type: "num", data: { _: `${i}.display`, sort: `${i}.@data-value`, type: `${i}.@data-value` } }
        : null,
    ),
    autoWidth: false,
    info: many,
    layout: { topStart: many ? "search" : null, topEnd: many ? "info" : null, bottomStart: null, bottomEnd: null },
    language: {
      search: "Filter rows",
      info: "_TOTAL_ rows",
      infoEmpty: "no rows",
      infoFiltered: "of _MAX_",
      zeroRecords: "No row holds these words.",
    },
    order: [],
    paging: false,
  });
}

for (const button of document.querySelectorAll("button[data-copies]")) {
  const source = document.getElementById(button.dataset.copies);
  button.hidden = false;
  button.setAttribute("aria-live", "polite");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(source.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(source);
      button.textContent = "Selected, press Ctrl+C";
    }
    setTimeout(() => (button.textContent = "Copy"), 2000);
  });
}
