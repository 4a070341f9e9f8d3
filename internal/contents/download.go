package contents

import (
	"io"
	"mime"
	"net/http"
	"path"
	"strconv"
	"strings"
)

// Download sends an attachment as a file to be stored: never as what a browser would show or run in the server's origin, whatever
// its type says. An error is of reading or sending; the connection must be cut off then, as the answer has begun.
func Download(w http.ResponseWriter, a Attachment, in io.Reader) error {
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Disposition", disposition(a.Name))
	h.Set("Content-Security-Policy", "default-src 'none'; sandbox")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	if a.Digest != "" {
		h.Set("Etag", strconv.Quote(a.Digest))
	}
	w.WriteHeader(http.StatusOK)
	_, err := io.Copy(w, in)
	return err
}

// disposition names the file that a browser stores.
func disposition(name string) string {
	name = path.Base(strings.ReplaceAll(name, `\`, "/"))
	if name == "." || name == "/" || name == ".." {
		name = "attachment"
	}
	if d := mime.FormatMediaType("attachment", map[string]string{"filename": name}); d != "" {
		return d
	}
	return "attachment"
}
