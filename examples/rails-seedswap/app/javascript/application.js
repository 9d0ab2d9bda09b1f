import { filter } from "filter"

for (const input of document.querySelectorAll("input[data-filters]")) {
  filter(input, document.querySelectorAll(`${input.dataset.filters} > li`))
}
