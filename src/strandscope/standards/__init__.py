"""Cases whose answer is known, the bands they are judged by, and the certificate of what came out."""
