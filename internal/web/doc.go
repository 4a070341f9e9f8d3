// Package web is the dashboard: pages for browsers at the root of the server, over the
// same packages as the REST APIs. It can do nothing that the command line and the APIs
// can't; docs/dashboard.md is for its users.
//
// # How to add a page
//
// A page is a template and a function of a call, which says who asks:
//
//	var jobRoutes = []route{
//		{"GET /jobs", access.Viewer, "", (*call).jobsPage},
//		{"POST /jobs/{id}/cancel", access.Operator, "job.cancel", (*call).cancelJob},
//	}
//
// Name that list in allRoutes. The third field is the action in the audit log, of all
// that changes something; c.log.Target says to what, by default {id} of the path. The
// first segment of the path is the page's entry in the menu, see mainEntries; an entry
// whose page there isn't is not shown.
//
// The function returns an answer, or an error: one of package server or api in its own
// words, which becomes an error page. Answers are
//
//	c.page(title, "jobs", data)               templates/*.html, {{define "jobs"}}, with data as .Data
//	c.livePage(title, "jobs", "jobs.live", d) the same; see below
//	c.again(title, "jobs", data)              a form as it was typed, with what is wrong
//	c.see("/jobs", "The backup began.")       after a form: on to another page, where that is said once
//
// Ask package server with c.as(id), which is the caller in the project of that thing, and
// an error if there is none; lists take c.who and c.all(). What is read out of backups
// needs c.who.MayRead(). Values of documents and attachments are shown as text by the
// templates; they are never sent as an answer of their own.
//
// A list is paged and searched by paged(c, all, text): the template shows what it returns
// and, below it, {{template "pager" .Data.Pager}}. parts.html has the other components,
// and format.go and render.go the functions: icon, pill, bytes, num, dur, when, ago,
// until, path. Words that depend on more than one thing are in words.go.
//
// Everything works without script. With it:
//
//   - A live page includes a template that is sent again whenever it comes out differently
//     (live.go): all elements in it that have an id and data-live are replaced as a whole.
//   - htmx asks for the same address and takes its part of the page out of the answer:
//     hx-get="/jobs" hx-select="#main" hx-target="#main" hx-push-url="true". There are no
//     fragments of their own to write.
//   - ts/ has small modules, and app.ts names them: each looks for a data attribute. css/
//     has the rules; a page with rules of its own has a file of its own, which slipcover.css
//     names. After a change run make web and commit static/ with it.
//
// No template may have inline script or style: the policy in web.go forbids both.
//
// Tests ask a site over a real server: see newWorld in world_test.go, which has agents
// and backups to fill it with.
package web
