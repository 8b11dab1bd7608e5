"use strict";
// DataTables sorts and filters; without it the tables are complete and stay as they are.

for (const table of "DataTable" in window ? document.querySelectorAll("table.sortable") : []) {
  const many = table.tBodies[0].rows.length > 5;
  new DataTable(table, {
    // Numbers are sorted by nine digits, which their cells have as an attribute.
    columns: [...table.tHead.rows[0].cells].map((heading, i) =>
      heading.matches(".number")
        ? { type: "num", data: { _: `${i}.display`, sort: `${i}.@data-value`, type: `${i}.@data-value` } }
        : null,
    ),
    autoWidth: false,
    info: many,
    layout: { topStart: many ? "search" : null, topEnd: many ? "info" : null, bottomStart: null, bottomEnd: null },
    language: { search: "Filter rows", info: "_TOTAL_ rows", infoEmpty: "no rows", infoFiltered: "of _MAX_", zeroRecords: "No row holds these words." },
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
