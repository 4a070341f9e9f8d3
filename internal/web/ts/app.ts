// What the script adds to pages that can be read without it. Each module looks for what it
// is about by a data attribute, in the page and in what htmx and the stream put there later.
import { confirms } from "./confirm";
import { copies } from "./copy";
import { keys } from "./keys";
import { live } from "./live";
import { begin } from "./page";
import { theme } from "./theme";
import { timeLines } from "./timeline";
import { choices, typed } from "./typed";
import { zone } from "./zone";

document.documentElement.classList.add("scripted");
begin([theme, copies, confirms, timeLines]);
keys();
zone();
live();
choices();
typed();
