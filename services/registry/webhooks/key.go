package webhooks

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/runledger/runledger/pkg/apierr"
)

var (
	// errOtherKey means that a secret was encrypted with another key than this
	// process has.
	errOtherKey = errors.New("the webhook's secret was encrypted with another key: give every registry process the same key file, or set the secret again")
	errNoKey    = apierr.Errorf(apierr.NotImplemented, "This server has no key to encrypt a webhook's secret with: its operator must give it one")
)

const (
	keyBytes = 32
	keyIDLen = 4
)

// key encrypts the secrets of webhooks with AES-256-GCM, each bound to its
// webhook. What is encrypted is the key's id, which is the beginning of its
// SHA-256, a random nonce, and the ciphertext.
type key struct {
	id   [keyIDLen]byte
	aead cipher.AEAD
}

func newKey(raw []byte) (*key, error) {
	if len(raw) != keyBytes {
		return nil, fmt.Errorf("a key of %d bytes, want %d", len(raw), keyBytes)
	}
	block, err := aes.NewCipher(raw)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, err
	}
	k := &key{aead: aead}
	sum := sha256.Sum256(raw)
	copy(k.id[:], sum[:])
	return k, nil
}

// loadKey reads a key file: 32 bytes in base64. If there is none it makes one,
// which only its owner may read.
func loadKey(path string) (*key, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		text, err = makeKeyFile(path)
	}
	if err != nil {
		return nil, fmt.Errorf("webhook key file: %w", err)
	}
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text)))
	if err == nil {
		var k *key
		if k, err = newKey(raw); err == nil {
			return k, nil
		}
	}
	return nil, fmt.Errorf("webhook key file %s: %w", path, err)
}

// makeKeyFile makes a key file, or reads the one that another process has made
// in the meantime. It is on disk when the function returns.
func makeKeyFile(path string) ([]byte, error) {
	raw := make([]byte, keyBytes)
	_, _ = rand.Read(raw) // never fails
	text := []byte(base64.StdEncoding.EncodeToString(raw) + "\n")
	f, err := os.CreateTemp(filepath.Dir(path), ".webhook-key-*") // mode 0600
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return nil, err
	}
	if err := os.Link(f.Name(), path); errors.Is(err, fs.ErrExist) {
		return os.ReadFile(path)
	} else if err != nil {
		return nil, err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	return text, errors.Join(dir.Sync(), dir.Close())
}

// SealSecret encrypts the secret of a webhook; "" stays empty. It returns an
// *apierr.Error of code NotImplemented when there is no key.
func (d *Dispatcher) SealSecret(webhookID, secret string) ([]byte, error) {
	if secret == "" {
		return []byte{}, nil
	}
	if d.key == nil {
		return nil, errNoKey
	}
	return d.key.aead.Seal(d.key.id[:len(d.key.id):len(d.key.id)], nil, []byte(secret), []byte(webhookID)), nil
}

// openSecret is the inverse of SealSecret.
func (d *Dispatcher) openSecret(webhookID string, sealed []byte) (string, error) {
	if len(sealed) == 0 {
		return "", nil
	}
	if d.key == nil || len(sealed) < keyIDLen || [keyIDLen]byte(sealed) != d.key.id {
		return "", errOtherKey
	}
	secret, err := d.key.aead.Open(nil, nil, sealed[keyIDLen:], []byte(webhookID))
	if err != nil {
		return "", fmt.Errorf("decrypt the webhook's secret: %w", err)
	}
	return string(secret), nil
}
