// strict_verify ANCHORS TLS_CRT PURPOSE...: whether Go's crypto/x509 takes the leaf of TLS_CRT, with the CAs that stand
// behind it there, below the certificates in ANCHORS, for each purpose ("server", "client"). Where it does not, it says
// why and ends with status 1.
package main

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
)

func fail(about string, err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", about, err)
		os.Exit(1)
	}
}

func certificates(path string) []*x509.Certificate {
	data, err := os.ReadFile(path)
	fail(path, err)
	var found []*x509.Certificate
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		certificate, err := x509.ParseCertificate(block.Bytes)
		fail(path, err)
		found = append(found, certificate)
	}
	return found
}

func main() {
	anchors, between := x509.NewCertPool(), x509.NewCertPool()
	for _, anchor := range certificates(os.Args[1]) {
		anchors.AddCert(anchor)
	}
	chain := certificates(os.Args[2])
	for _, certificate := range chain[1:] {
		between.AddCert(certificate)
	}
	usages := map[string]x509.ExtKeyUsage{"server": x509.ExtKeyUsageServerAuth, "client": x509.ExtKeyUsageClientAuth}
	for _, purpose := range os.Args[3:] {
		usage := []x509.ExtKeyUsage{usages[purpose]}
		_, err := chain[0].Verify(x509.VerifyOptions{Roots: anchors, Intermediates: between, KeyUsages: usage})
		fail(os.Args[2], err)
	}
}
