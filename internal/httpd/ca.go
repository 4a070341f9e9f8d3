package httpd

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/slipcover/slipcover/internal/durable"
)

const (
	caYears   = 10
	certYears = 2 // of which one is left when a new one is made
)

// CA is a certificate authority of our own, for a server that nobody gave a
// certificate. Whoever connects knows it by its fingerprint.
type CA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	dir  string
}

// OpenCA reads the authority in a folder, or makes both. It is one file, ca.pem, with
// the certificate and its key, for the owner alone: there is never one without the
// other. Of several processes that make one, one wins, and all return that.
func OpenCA(dir string) (*CA, error) {
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make certificate authority: %w", err)
	}
	path := filepath.Join(dir, "ca.pem")
	c, err := readCA(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return c, err
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "Slipcover CA"},
		NotBefore:             notBefore(),
		NotAfter:              time.Now().AddDate(caYears, 0, 0),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make certificate authority: %w", err)
	}
	text, err := sign(template, template, key, key, nil)
	if err != nil {
		return nil, fmt.Errorf("make certificate authority: %w", err)
	}
	if err := durable.WriteNewFile(path, 0o600, write(text)); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("make certificate authority: %w", err)
	}
	return readCA(path)
}

// notBefore lets clocks be an hour behind.
func notBefore() time.Time { return time.Now().Add(-time.Hour) }

func write(text []byte) func(*os.File) error {
	return func(f *os.File) error {
		_, err := f.Write(text)
		return err
	}
}

func readCA(path string) (*CA, error) {
	pair, err := tls.LoadX509KeyPair(path, path)
	if err != nil {
		return nil, fmt.Errorf("read certificate authority: %w", err)
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok || !pair.Leaf.IsCA {
		return nil, fmt.Errorf("read certificate authority: %s is not one of ours", path)
	}
	return &CA{pair.Leaf, key, filepath.Dir(path)}, nil
}

// sign returns PEM: a certificate, then that of the authority if it isn't nil, then
// the key.
func sign(template, parent *x509.Certificate, key, signer *ecdsa.PrivateKey, chain *x509.Certificate) ([]byte, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if chain != nil {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: chain.Raw})...)
	}
	return append(text, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})...), nil
}

// Certificate returns the file of a server's certificate for names and addresses, for
// Options.CertFile and KeyFile both: server.pem beside the authority. It makes one if
// there is none of this authority for these names, or if the one that there is ends
// within a year; a server that runs on calls it now and then.
func (c *CA) Certificate(names ...string) (path string, err error) {
	path = filepath.Join(c.dir, "server.pem")
	if len(names) == 0 {
		return "", errors.New("a certificate needs the names or addresses by which the server is reached")
	}
	if c.good(path, names) {
		return path, nil
	}
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: "slipcover"},
		NotBefore:   notBefore(),
		NotAfter:    time.Now().AddDate(certYears, 0, 0),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if template.NotAfter.After(c.cert.NotAfter) {
		template.NotAfter = c.cert.NotAfter
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", fmt.Errorf("make certificate: %w", err)
	}
	text, err := sign(template, c.cert, key, c.key, c.cert)
	if err != nil {
		return "", fmt.Errorf("make certificate for %s: %w", strings.Join(names, ", "), err)
	}
	if err := durable.WriteFile(path, 0o600, write(text)); err != nil {
		return "", fmt.Errorf("make certificate: %w", err)
	}
	return path, nil
}

// good says whether a file has a certificate that needs no new one.
func (c *CA) good(path string, names []string) bool {
	pair, err := tls.LoadX509KeyPair(path, path)
	if err != nil || pair.Leaf.CheckSignatureFrom(c.cert) != nil || time.Until(pair.Leaf.NotAfter) < 365*24*time.Hour {
		return false
	}
	return !slices.ContainsFunc(names, func(name string) bool { return pair.Leaf.VerifyHostname(name) != nil })
}

// PEM is the authority's certificate, without its key.
func (c *CA) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.cert.Raw})
}

// Fingerprint is that of the authority's certificate.
func (c *CA) Fingerprint() string { return Fingerprint(c.cert) }

// Fingerprint returns the SHA-256 of a certificate as 64 hexadecimal digits.
func Fingerprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return hex.EncodeToString(sum[:])
}

// ClientTLS returns the settings of a client that trusts one authority alone, known
// by its fingerprint. The server must send the authority's certificate along with its
// own, as one from CA does.
//
// The name of the server is checked; its address, if there is no name, is not: the
// authority signs nothing but the service's own servers.
func ClientTLS(fingerprint string) (*tls.Config, error) {
	want, err := hex.DecodeString(strings.ReplaceAll(fingerprint, ":", ""))
	if err != nil || len(want) != sha256.Size {
		return nil, fmt.Errorf("%q is no fingerprint: give the 64 hexadecimal digits that the server shows", fingerprint)
	}
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: true, // in place of it:
		VerifyConnection: func(s tls.ConnectionState) error {
			pool, rest := x509.NewCertPool(), x509.NewCertPool()
			found := false
			for _, cert := range s.PeerCertificates {
				if sum := sha256.Sum256(cert.Raw); bytes.Equal(sum[:], want) && cert.IsCA {
					found = true
					pool.AddCert(cert)
				} else {
					rest.AddCert(cert)
				}
			}
			if !found {
				return errors.New("the server's certificate is not from the authority with that fingerprint")
			}
			_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: pool, Intermediates: rest, DNSName: s.ServerName})
			return err
		},
	}, nil
}
