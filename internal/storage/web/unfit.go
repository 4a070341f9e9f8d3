package web

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/slipcover/slipcover/internal/storage"
	"github.com/slipcover/slipcover/internal/userfile"
)

// Service is what a driver expects at the other end.
type Service struct {
	Name string // what it speaks: "S3", "Swift"
	CA   string // the variable that names a file of certificates to trust
}

// Send sends a request. What can't get better by asking again comes back as a
// *storage.UnfitError: a server that speaks TLS or doesn't, a certificate that isn't
// trusted, a page for people in place of the service.
func (s Service) Send(base http.RoundTripper, req *http.Request) (*http.Response, error) {
	resp, err := base.RoundTrip(req)
	if err != nil {
		if why := s.Why(req.URL.Host, err); why != "" {
			return nil, &storage.UnfitError{Why: why}
		}
		return nil, err
	}
	if why := s.page(req, resp); why != "" {
		resp.Body.Close()
		return nil, &storage.UnfitError{Why: why}
	}
	return resp, nil
}

// Transport is base with Send.
func (s Service) Transport(base *http.Transport) http.RoundTripper { return transport{base, s} }

type transport struct {
	*http.Transport // with CloseIdleConnections
	service         Service
}

func (t transport) RoundTrip(req *http.Request) (*http.Response, error) {
	return t.service.Send(t.Transport, req)
}

// Why says why a request to a host had no answer, if that won't pass; else "".
func (s Service) Why(host string, err error) string {
	if why := s.untrusted(host, err); why != "" {
		return why
	}
	text := err.Error()
	var record tls.RecordHeaderError
	op := (*net.OpError)(nil)
	switch {
	case errors.As(err, &record) && string(record.RecordHeader[:]) == "HTTP/":
		return host + " speaks plain HTTP, not TLS: write http:// in its address, or give the port that speaks TLS"
	case errors.As(err, &record):
		return host + " doesn't speak TLS: check the port, or write http:// in its address"
	// net/http has no types for these; src/net/http/response.go, ReadResponse.
	case strings.Contains(text, `malformed HTTP response "\x15\x03`): // an alert of TLS
		return speaksTLS(host)
	case strings.Contains(text, "malformed HTTP "):
		return host + " doesn't speak HTTP: check the address and the port"
	case strings.Contains(text, "Proxy Authentication Required"):
		return "the proxy wants a log-in: write user and password into HTTPS_PROXY"
	case errors.As(err, &op) && op.Op == "remote error" && !strings.Contains(text, "internal error"):
		return fmt.Sprintf("%s refuses the TLS connection (%s): check the address, and whether it wants a newer TLS or a client's certificate", host, op.Err)
	}
	return ""
}

func speaksTLS(host string) string {
	return host + " speaks TLS: write https:// in its address"
}

// untrusted says what is wrong with a certificate, "" if that isn't the fault.
func (s Service) untrusted(host string, err error) string {
	var (
		unknown x509.UnknownAuthorityError
		name    x509.HostnameError
		invalid x509.CertificateInvalidError
		check   *tls.CertificateVerificationError
	)
	switch {
	case errors.As(err, &unknown):
		return fmt.Sprintf("the certificate of %s isn't trusted: this machine doesn't know who signed it; if that is your own authority, name the file with its certificate in %s",
			host, s.CA)
	case errors.As(err, &name):
		return fmt.Sprintf("the certificate of %s is for other names (%s): use one of them as the address", host, certificateNames(name.Certificate))
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		c := invalid.Cert
		return fmt.Sprintf("the certificate of %s is valid from %s to %s only: renew it, or set this machine's clock right",
			host, c.NotBefore.UTC().Format(time.DateOnly), c.NotAfter.UTC().Format(time.DateOnly))
	case errors.As(err, &check):
		return fmt.Sprintf("the certificate of %s isn't trusted: %v", host, check.Err)
	}
	return ""
}

func certificateNames(c *x509.Certificate) string {
	names := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	if len(names) == 0 {
		return "none"
	}
	if len(names) > 5 {
		names = append(names[:5], "…")
	}
	return strings.Join(names, ", ")
}

// own are headers of which each service puts one into all its answers, also those
// that are HTML, as Swift's are.
var own = []string{"X-Trans-Id", "X-Openstack-Request-Id", "X-Amz-Request-Id", "X-Ms-Request-Id", "X-Guploader-Uploadid"}

// pageBytes is what is looked at of an answer that may be a page.
const pageBytes = 2048

var title = regexp.MustCompile(`(?is)<title[^>]*>([^<]{1,100})`)

// page says that the answer is a page for people: of a captive portal, of a web
// interface on the next port, of a proxy that forbids. An overloaded or broken proxy
// has pages too, but may do better the next time, and what it says of a body's size is
// meant for the driver.
func (s Service) page(req *http.Request, resp *http.Response) string {
	code := resp.StatusCode
	if code >= 500 || code == http.StatusRequestTimeout || code == http.StatusTooManyRequests || code == http.StatusRequestEntityTooLarge {
		return ""
	}
	if req.Method == http.MethodHead || slices.ContainsFunc(own, func(h string) bool { return resp.Header.Get(h) != "" }) {
		return ""
	}
	kind := resp.Header.Get("Content-Type")
	if code != http.StatusBadRequest && !strings.HasPrefix(kind, "text/html") {
		return ""
	}
	head := make([]byte, pageBytes)
	n, err := io.ReadFull(resp.Body, head)
	head = head[:n]
	rest := resp.Body
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return "" // what follows says it
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(head), rest), rest}
	// Go's server, nginx and Apache, in this order.
	for _, said := range []string{"HTTP request to an HTTPS server", "plain HTTP request was sent to HTTPS port", "plain HTTP to an SSL-enabled server port"} {
		if req.URL.Scheme == "http" && code == http.StatusBadRequest && bytes.Contains(head, []byte(said)) {
			return speaksTLS(req.URL.Host)
		}
	}
	if !strings.HasPrefix(kind, "text/html") || !strings.HasPrefix(http.DetectContentType(head), "text/html") {
		return ""
	}
	what := fmt.Sprintf("%d %s", code, http.StatusText(code))
	if m := title.FindSubmatch(head); m != nil {
		what += fmt.Sprintf(", %q", strings.Join(strings.Fields(html.UnescapeString(string(m[1]))), " "))
	}
	return fmt.Sprintf("%s answers with a web page (%s), not as %s does: check the address and the port, and whether a proxy or a log-in page stands in between",
		req.URL.Host, what, s.Name)
}

// Trust makes t trust the certificates in a file besides the system's; variable is
// what named the file. An empty file name changes nothing.
func Trust(t *http.Transport, variable, file string) error {
	if file == "" {
		return nil
	}
	pem, err := userfile.ReadText(file)
	if err != nil {
		return fmt.Errorf("read the certificates that %s names: %w", variable, err)
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if !roots.AppendCertsFromPEM([]byte(pem)) {
		return fmt.Errorf("the file that %s names, %s, has no certificate (PEM)", variable, file)
	}
	if t.TLSClientConfig == nil {
		t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	t.TLSClientConfig.RootCAs = roots
	return nil
}
